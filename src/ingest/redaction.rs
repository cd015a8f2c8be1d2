//! Redactions, in whichever order they and their targets come.
//!
//! A redaction takes effect when it is of the same room, was not rejected, and its sender may
//! redact the target: room versions 1 and 2 decide that by the authorisation rules, so it is part
//! of the caller's verdict; later ones ask for the power to redact in the state before the
//! redaction, or for a sender of the target sender's server
//! (<https://spec.matrix.org/v1.16/rooms/v3/#handling-redactions>). A create event is never
//! redacted. While the power cannot be told, the target is hidden. What cannot be read redacts
//! nothing.
//!
//! A sender who had lost that power by the time its redaction came must not get it back by placing
//! the redaction before the loss, as soft failure sees to for other events. So the power levels
//! that were in force when the redaction arrived have to grant it, too: of those accepted power
//! levels that arrived before it, the ones that no other of them has replaced. Where several are
//! left, one that grants it is enough. This asks for the caller's order of arrival, not for the
//! order in which we were told, so the answer is the same in whatever order events come here. What
//! is filled in from before (with a negative arrival) is not held to it, and neither is a redaction
//! before which we know no power levels: that can only hide more.
//!
//! How each redaction was judged is kept beside it, since strangers choose how many redactions an
//! event has: none of them is looked at again because another comes. They are looked at again in
//! three cases, in bounded steps: when their target comes, when the state at them becomes known, and
//! when power levels that arrived before them do.

use std::collections::BTreeSet;

use ruma::{
    UserId,
    room_version_rules::{AuthorizationRules, RoomVersionRules},
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
};

use super::{
    held::{parse_held, version_of},
    resolve::state_event,
};
use crate::{
    pdu::{Event, Pdu, RoomVersion},
    state::{
        map::{self, Key, Value},
        resolution::StateEvent,
    },
    store::{
        Arrival, Edit, EventNode, EventNum, Judged as _, Judgement, Power, PowerEvent, StateNum,
        StoreError, View,
    },
};

/// Redactions that are judged in one go; the rest is left to a note.
const JUDGED_AT_ONCE: usize = 64;
/// Power levels that are looked at to find those in force.
const POWERS_LOOKED_AT: usize = 64;

/// Takes a newly placed event into account, as a redaction and as a target.
pub(super) fn place(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<(), StoreError> {
    note(edit, event, read)?;
    let (Some(pdu), event_id) = (read.pdu(), read.event_id().as_str()) else { return Ok(()) };
    if !edit.has_redactions(edit.room_num(), event_id)? {
        return Ok(());
    }
    judge_unseen(edit, event, pdu)?;
    // Some may have been judged while it was an outlier.
    mark(edit, event, event_id)
}

/// Notes an event as a redaction, if it is one that counts, and judges it.
pub(super) fn note(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<(), StoreError> {
    let (Some(pdu), Some(target_id)) = (read.pdu(), read.redacts()) else { return Ok(()) };
    let node = edit.node(event)?;
    if node.flags.rejected {
        return Ok(());
    }
    edit.put_redaction(target_id.as_str(), event, Judgement::Unseen);
    if takes_power(version_of(edit)?) {
        edit.list_redaction(node.arrival, event);
    }
    judge(edit, event, pdu)
}

/// Judges the redactions of an event that were not, some of them now.
pub(super) fn judge_unseen(
    edit: &mut Edit<'_>,
    target: EventNum,
    target_pdu: &Pdu,
) -> Result<(), StoreError> {
    let (room, target_id) = (edit.room_num(), target_pdu.event_id().as_str());
    let unseen = edit.redactions_of(room, target_id, Judgement::Unseen, JUDGED_AT_ONCE)?;
    if unseen.is_empty() {
        return Ok(());
    }
    let version = version_of(edit)?;
    for redaction in &unseen {
        let judged = match parse_held(edit, *redaction, version)? {
            Some(pdu) => judgement(edit, *redaction, &pdu, target_pdu)?,
            None => Judgement::Waiting,
        };
        edit.remove_redaction(target_id, *redaction, Judgement::Unseen);
        edit.put_redaction(target_id, *redaction, judged);
    }
    if unseen.len() == JUDGED_AT_ONCE {
        edit.put_unfinished(target);
    }
    mark(edit, target, target_id)
}

/// The state at an event has become known. If it is a redaction, its power can be told now; if it
/// is power levels, that of redactions which arrived after it.
pub(super) fn settled(
    edit: &mut Edit<'_>,
    event: EventNum,
    read: &Event,
) -> Result<(), StoreError> {
    let Some(pdu) = read.pdu() else { return Ok(()) };
    judge(edit, event, pdu)?;
    let node = edit.node(event)?;
    let is_power = pdu.event_type() == "m.room.power_levels" && pdu.state_key() == Some("");
    if !is_power || !node.flags.is_accepted() {
        return Ok(());
    }
    let before = match node.state_after {
        Some(state) => edit.state_facts(edit.room_num(), state)?.before,
        None => None,
    };
    let before = match before {
        Some(before) => state_entry(edit, before, "m.room.power_levels")?,
        None => None,
    };
    edit.put_power(node.arrival, event, Power { before, judged_up_to: None });
    judge_later(edit, event)
}

/// Judges redactions again that arrived after power levels, some of them now.
pub(super) fn judge_later(edit: &mut Edit<'_>, event: EventNum) -> Result<(), StoreError> {
    let arrival = edit.node(event)?.arrival;
    let Some(power) = edit.power(edit.room_num(), arrival, event)? else { return Ok(()) };
    let after = power.judged_up_to.unwrap_or(Arrival { arrival, event });
    let later = edit.redactions_after(edit.room_num(), after, JUDGED_AT_ONCE)?;
    let version = version_of(edit)?;
    for redaction in later.iter().map(|it| it.event) {
        if let Some(pdu) = parse_held(edit, redaction, version)? {
            judge(edit, redaction, &pdu)?;
        }
    }
    if later.len() == JUDGED_AT_ONCE {
        edit.put_power(arrival, event, Power { judged_up_to: later.last().copied(), ..power });
        edit.put_unfinished(event);
    }
    Ok(())
}

/// A redaction is about to be purged. What it hides, or may hide, is kept in its redacted form
/// only; what it would hide, when that came, never comes.
pub(super) fn purge(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<(), StoreError> {
    let Some(target_id) = read.redacts() else { return Ok(()) };
    let target_id = target_id.as_str();
    if let Some(judged) = edit.judgement(edit.room_num(), target_id, event)? {
        edit.remove_redaction(target_id, event, judged);
    }
    let arrival = edit.node(event)?.arrival;
    edit.remove_listed_redaction(arrival, event);
    let Some(target) = edit.event_num(edit.room_num(), target_id)? else {
        edit.bury(target_id);
        return Ok(());
    };
    let node = edit.node(target)?;
    let is_hidden = node.flags.redacted || node.flags.redaction_pending;
    if is_hidden {
        let parsed = parse_held(edit, target, version_of(edit)?)?;
        if let Some(redacted) = parsed.and_then(|it| it.redacted().ok()) {
            edit.put_body(target, target_id, redacted.bytes_as_received());
        }
    }
    mark(edit, target, target_id)?;
    // Whoever has just read the whole body is still to hide it.
    let mut node = edit.node(target)?;
    node.flags.redacted |= is_hidden;
    edit.put_node(target, node)
}

/// Judges an event, if it is a redaction that is noted and its target is held.
fn judge(edit: &mut Edit<'_>, redaction: EventNum, pdu: &Pdu) -> Result<(), StoreError> {
    let (room, Some(target_id)) = (edit.room_num(), pdu.redacts()) else { return Ok(()) };
    let target_id = target_id.as_str();
    let Some(target) = edit.event_num(room, target_id)? else { return Ok(()) };
    let Some(before) = edit.judgement(room, target_id, redaction)? else { return Ok(()) };
    let Some(target_pdu) = parse_held(edit, target, version_of(edit)?)? else { return Ok(()) };
    let judged = judgement(edit, redaction, pdu, &target_pdu)?;
    if judged == before {
        return Ok(());
    }
    edit.remove_redaction(target_id, redaction, before);
    edit.put_redaction(target_id, redaction, judged);
    mark(edit, target, target_id)
}

/// Marks an event as its redactions were judged.
fn mark(edit: &mut Edit<'_>, target: EventNum, target_id: &str) -> Result<(), StoreError> {
    let has = |edit: &Edit<'_>, judgement| -> Result<bool, StoreError> {
        Ok(!edit.redactions_of(edit.room_num(), target_id, judgement, 1)?.is_empty())
    };
    let redacted = has(edit, Judgement::Heeded)?;
    let pending = has(edit, Judgement::Unseen)? || has(edit, Judgement::Waiting)?;
    let mut node = edit.node(target)?;
    if (node.flags.redacted, node.flags.redaction_pending) == (redacted, pending) {
        return Ok(());
    }
    (node.flags.redacted, node.flags.redaction_pending) = (redacted, pending);
    edit.put_node(target, node)
}

/// Whether an event is redacted, and whether that cannot be told of some redaction yet: worked out
/// anew, but for redactions that were found to take no effect.
pub(super) fn derive(
    edit: &Edit<'_>,
    target: EventNum,
    target_id: &str,
) -> Result<(bool, bool), StoreError> {
    let (version, room) = (version_of(edit)?, edit.room_num());
    let (mut redacted, mut pending) = (false, false);
    let Some(target_pdu) = parse_held(edit, target, version)? else { return Ok((false, false)) };
    for judged in [Judgement::Unseen, Judgement::Waiting, Judgement::Heeded] {
        for redaction in edit.redactions_of(room, target_id, judged, usize::MAX)? {
            let judged = match parse_held(edit, redaction, version)? {
                Some(pdu) => judgement(edit, redaction, &pdu, &target_pdu)?,
                None => Judgement::Waiting,
            };
            redacted |= judged == Judgement::Heeded;
            pending |= judged == Judgement::Waiting;
        }
    }
    Ok((redacted, pending))
}

/// Whether redactions take power, rather than being decided by the authorisation rules.
fn takes_power(version: RoomVersion) -> bool {
    !version.rules().authorization.special_case_room_redaction
}

/// Whether a redaction takes effect.
fn judgement(
    edit: &Edit<'_>,
    redaction: EventNum,
    pdu: &Pdu,
    target: &Pdu,
) -> Result<Judgement, StoreError> {
    if target.event_type() == "m.room.create" {
        return Ok(Judgement::Unheeded);
    }
    let version = version_of(edit)?;
    if !takes_power(version) || pdu.sender_server() == target.sender_server() {
        return Ok(Judgement::Heeded);
    }
    let EventNode { state_after, arrival, .. } = edit.node(redaction)?;
    // A redaction is no state event: the state after it is that before it.
    let Some(state) = state_after else { return Ok(Judgement::Waiting) };
    Ok(match has_power(edit, state, (pdu, version.rules()))? {
        None => Judgement::Waiting,
        Some(false) => Judgement::Unheeded,
        Some(true) if has_lost_power(edit, arrival, state, (pdu, version.rules()))? => {
            Judgement::Unheeded
        }
        Some(true) => Judgement::Heeded,
    })
}

/// Whether all power levels that were in force when a redaction arrived deny its sender the power.
fn has_lost_power(
    edit: &Edit<'_>,
    arrival: i64,
    state: StateNum,
    (redaction, rules): (&Pdu, &RoomVersionRules),
) -> Result<bool, StoreError> {
    let auth = &rules.authorization;
    let Some(sender) = redaction.sender().as_ruma() else { return Ok(false) };
    if arrival < 0 || is_creator_above_all(edit, state, sender, auth)? {
        return Ok(false);
    }
    let (mut replaced, mut are_there) = (BTreeSet::new(), false);
    let powers = edit.powers_before(edit.room_num(), arrival, POWERS_LOOKED_AT)?;
    for PowerEvent { event, power } in powers {
        if !replaced.contains(&event) {
            let pdu = parse_held(edit, event, version_of(edit)?)?;
            let Some(levels) = pdu.and_then(|it| state_event(&it, false)) else {
                return Ok(false);
            };
            let levels = RoomPowerLevelsEvent::new(levels.with_readable_power_levels(auth));
            if compare(&levels, sender, auth) != Some(false) {
                return Ok(false);
            }
            are_there = true;
        }
        replaced.extend(power.before);
    }
    Ok(are_there)
}

/// Whether power levels do not bind a user, who has made the room.
fn is_creator_above_all(
    edit: &Edit<'_>,
    state: StateNum,
    user: &UserId,
    rules: &AuthorizationRules,
) -> Result<bool, StoreError> {
    if !rules.explicitly_privilege_room_creators {
        return Ok(false);
    }
    let create = state_entry(edit, state, "m.room.create")?;
    let create = create.map(|it| read_entry(edit, it)).transpose()?.flatten();
    let create = create.map(RoomCreateEvent::new);
    Ok(create.is_some_and(|it| it.creators(rules).is_ok_and(|it| it.contains(user))))
}

/// Whether the sender of a redaction has the power to redact, in a state.
fn has_power(
    edit: &Edit<'_>,
    state: StateNum,
    (redaction, rules): (&Pdu, &RoomVersionRules),
) -> Result<Option<bool>, StoreError> {
    let auth = &rules.authorization;
    let Some(sender) = redaction.sender().as_ruma() else { return Ok(None) };
    let create = state_entry(edit, state, "m.room.create")?;
    let Some(create) = create.map(|it| read_entry(edit, it)).transpose()?.flatten() else {
        return Ok(None);
    };
    let Ok(creators) = RoomCreateEvent::new(create).creators(auth) else { return Ok(None) };
    if auth.explicitly_privilege_room_creators && creators.contains(sender) {
        return Ok(Some(true));
    }
    let Some(levels) = state_entry(edit, state, "m.room.power_levels")? else {
        // Without power levels the creator has 100, everybody else 0, and redacting takes 50.
        return Ok(Some(creators.contains(sender)));
    };
    // Power levels that cannot be read grant nothing and deny nothing.
    let Some(levels) = read_entry(edit, levels)? else { return Ok(None) };
    let levels = levels.with_readable_power_levels(auth);
    Ok(compare(&RoomPowerLevelsEvent::new(levels), sender, auth))
}

fn compare(
    levels: &RoomPowerLevelsEvent<StateEvent>,
    sender: &UserId,
    rules: &AuthorizationRules,
) -> Option<bool> {
    let needed = levels.get_as_int_or_default(RoomPowerLevelsIntField::Redact, rules).ok()?;
    Some(levels.user_power_level(sender, rules).ok()? >= needed)
}

fn state_entry(
    edit: &Edit<'_>,
    state: StateNum,
    event_type: &str,
) -> Result<Option<EventNum>, StoreError> {
    let nodes = edit.states(edit.room_num());
    let value = map::get(&nodes, state.root(), Key::of_state(event_type, ""))?;
    Ok(match value {
        Some(Value::Event { event, .. }) => Some(EventNum(event)),
        Some(Value::Server { .. }) | None => None,
    })
}

fn read_entry(edit: &Edit<'_>, event: EventNum) -> Result<Option<StateEvent>, StoreError> {
    let pdu = parse_held(edit, event, version_of(edit)?)?;
    Ok(pdu.and_then(|it| state_event(&it, false)))
}

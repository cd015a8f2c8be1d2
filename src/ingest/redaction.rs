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
//! the redaction before the loss, as soft failure sees to for other events. So the room's current
//! state has to grant the power too, as it is when the redaction comes; not where that state or the
//! one before the redaction is not known yet (what grants the power may still be under way), or the
//! redaction is filled in from before: that can only hide more.

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
    store::{Edit, EventNode, EventNum, PrevEvent, StateNum, StoreError, View},
};

/// Takes a newly placed event into account, as a redaction and as a target.
pub(super) fn place(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<(), StoreError> {
    let node = edit.node(event)?;
    if let Some(pdu) = read.pdu()
        && let Some(target_id) = pdu.redacts()
        && !node.flags.rejected
    {
        let is_newest = node.arrival.saturating_add(1) >= edit.room.next_arrival;
        let rules = version_of(edit)?.rules();
        let is_told = is_newest && is_known_before(edit, &node)?;
        let powerless = match edit.room.current_state.filter(|_| is_told) {
            Some(current) => has_power(edit, current, (pdu, rules))? == Some(false),
            None => false,
        };
        edit.put_redaction(target_id.as_str(), event, powerless);
        refresh(edit, target_id.as_str())?;
    }
    refresh(edit, read.event_id().as_str())
}

/// Whether the states of all of an event's predecessors are known.
fn is_known_before(edit: &Edit<'_>, node: &EventNode) -> Result<bool, StoreError> {
    for edge in &node.prev_events {
        match *edge {
            PrevEvent::Held(prev) if edit.node(prev)?.state_after.is_some() => {}
            PrevEvent::Held(_) | PrevEvent::Missing => return Ok(false),
        }
    }
    Ok(true)
}

/// The state at an event has become known; if it is a redaction, its power can be told now.
pub(super) fn settled(
    edit: &mut Edit<'_>,
    event: EventNum,
    read: &Event,
) -> Result<(), StoreError> {
    match read.redacts() {
        Some(target_id) if !edit.node(event)?.flags.rejected => refresh(edit, target_id.as_str()),
        _ => Ok(()),
    }
}

/// A redaction is about to be purged. What it hides, or may hide, is kept in its redacted form
/// only; what it would hide, when that came, never comes.
pub(super) fn purge(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<(), StoreError> {
    let Some(target_id) = read.redacts() else { return Ok(()) };
    let target_id = target_id.as_str();
    edit.remove_redaction(target_id, event);
    let Some(target) = edit.event_num(edit.room_num(), target_id)? else {
        edit.bury(target_id);
        return Ok(());
    };
    let mut node = edit.node(target)?;
    let is_hidden = node.flags.redacted || node.flags.redaction_pending;
    if is_hidden {
        let parsed = parse_held(edit, target, version_of(edit)?)?;
        if let Some(redacted) = parsed.and_then(|it| it.redacted().ok()) {
            edit.put_body(target, target_id, redacted.bytes_as_received());
        }
    }
    (node.flags.redacted, node.flags.redaction_pending) = derive(edit, target, target_id)?;
    // Whoever has just read the whole body is still to hide it.
    node.flags.redacted |= is_hidden;
    edit.put_node(target, node)
}

/// Works out anew whether an event is redacted.
fn refresh(edit: &mut Edit<'_>, target_id: &str) -> Result<(), StoreError> {
    let Some(target) = edit.event_num(edit.room_num(), target_id)? else { return Ok(()) };
    if edit.redactions_of(edit.room_num(), target_id)?.is_empty() {
        return Ok(());
    }
    let mut node = edit.node(target)?;
    (node.flags.redacted, node.flags.redaction_pending) = derive(edit, target, target_id)?;
    edit.put_node(target, node)
}

/// Whether an event is redacted, and whether that cannot be told of some redaction yet.
pub(super) fn derive(
    edit: &Edit<'_>,
    target: EventNum,
    target_id: &str,
) -> Result<(bool, bool), StoreError> {
    let version = version_of(edit)?;
    let (mut redacted, mut pending) = (false, false);
    let Some(target_pdu) = parse_held(edit, target, version)? else { return Ok((false, false)) };
    for redaction in edit.redactions_of(edit.room_num(), target_id)? {
        match may_redact(edit, redaction, (&target_pdu, version))? {
            Some(allowed) => redacted |= allowed,
            None => pending = true,
        }
    }
    Ok((redacted, pending))
}

/// Whether a redaction takes effect; nothing if that cannot be told yet.
fn may_redact(
    edit: &Edit<'_>,
    (redaction, powerless): (EventNum, bool),
    (target, version): (&Pdu, RoomVersion),
) -> Result<Option<bool>, StoreError> {
    if target.event_type() == "m.room.create" {
        return Ok(Some(false));
    }
    let rules = version.rules();
    if rules.authorization.special_case_room_redaction {
        return Ok(Some(true));
    }
    let Some(pdu) = parse_held(edit, redaction, version)? else { return Ok(None) };
    if pdu.sender_server() == target.sender_server() {
        return Ok(Some(true));
    }
    if powerless {
        return Ok(Some(false));
    }
    // A redaction is no state event: the state after it is that before it.
    match edit.node(redaction)?.state_after {
        Some(state) => has_power(edit, state, (&pdu, rules)),
        None => Ok(None),
    }
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

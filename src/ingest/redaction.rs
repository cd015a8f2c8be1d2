//! Redactions: which of them take effect, in whichever order redactions and targets are received.
//!
//! A redaction takes effect if it is of the target's room, was not rejected, and its sender may
//! redact the target. In room versions 1 and 2 the authorisation rules decide that, so it is part
//! of the caller's verdict. In later ones the sender needs the power to redact in the state before
//! the redaction, or must be on the server of the target's sender
//! (<https://spec.matrix.org/v1.16/rooms/v3/#handling-redactions>). A create event is never
//! redacted. While the power is not known, the target is hidden. An unreadable event redacts no
//! other event.
//!
//! A sender who had lost that power before its redaction arrived must not get it back by placing
//! the redaction in the graph before the loss; soft failure prevents the same for other events. So
//! the power levels that were in force when the redaction arrived must grant the power, too: the
//! accepted power levels that arrived before it and that no other of these has replaced. If there
//! are several, one that grants it is enough. The caller's order of arrival counts here, not the
//! order in which the service receives events, so the result does not depend on the latter. The
//! rule does not apply to history from before the caller joined (negative arrival), nor to a
//! redaction before which no power levels are known; more could only be hidden by it.
//!
//! The judgement on each redaction is stored with it. Other servers choose how many redactions an
//! event has, so a new redaction does not cause others to be judged again. They are judged again in
//! three cases, in bounded steps: when their target is stored, when the state before them becomes
//! known, and when power levels that arrived before them are settled.

use super::{
    redaction_power::{has_lost_power, has_power, state_entry},
    remains::{redacts, strip},
    stored::{parse_stored, version_of},
};
use crate::{
    pdu::{Event, Pdu, RoomVersion},
    store::{
        Arrival, Edit, EventNode, EventNum, Flags, Judged as _, Judgement, Power, StoreError, View,
    },
};

/// The most redactions that are judged in one decision. A note on disk keeps the rest.
const MAX_JUDGED: usize = 64;

/// Judges a newly placed event as a redaction, and the redactions of it.
pub(super) fn place(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<(), StoreError> {
    note(edit, event, read)?;
    place_target(edit, event, read)
}

/// Judges the redactions of a newly stored event, which may be an outlier.
pub(super) fn place_target(
    edit: &mut Edit<'_>,
    event: EventNum,
    read: &Event,
) -> Result<(), StoreError> {
    let Some(pdu) = read.pdu() else { return Ok(()) };
    let event_id = read.event_id().as_str();
    if !edit.has_redactions(edit.room_num(), event_id)? {
        return Ok(());
    }
    judge_unseen(edit, event, pdu)?;
    // Some may have been judged while the event was an outlier.
    mark(edit, event, event_id)
}

/// Lists and judges an event as a redaction, if it is one and was not rejected.
pub(super) fn note(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<(), StoreError> {
    let Some(pdu) = read.pdu() else { return Ok(()) };
    let Some(target_id) = redacts(edit, event, pdu)? else { return Ok(()) };
    let node = edit.node(event)?;
    if node.flags.rejected {
        return Ok(());
    }
    edit.put_redaction(&target_id, event, Judgement::Unseen);
    if needs_power(version_of(edit)?) {
        edit.list_redaction(node.arrival, event);
    }
    judge(edit, event, pdu)
}

/// Judges redactions of an event that were not judged yet: at most [`MAX_JUDGED`] now.
pub(super) fn judge_unseen(
    edit: &mut Edit<'_>,
    target: EventNum,
    target_pdu: &Pdu,
) -> Result<(), StoreError> {
    let target_id = target_pdu.event_id().as_str();
    let unseen = edit.redactions_of(edit.room_num(), target_id, Judgement::Unseen, MAX_JUDGED)?;
    if unseen.is_empty() {
        return Ok(());
    }
    let version = version_of(edit)?;
    for redaction in &unseen {
        let judged = match parse_stored(edit, *redaction, version)? {
            Some(pdu) => judgement(edit, *redaction, &pdu, target_pdu)?,
            None => Judgement::Waiting,
        };
        edit.remove_redaction(target_id, *redaction, Judgement::Unseen);
        edit.put_redaction(target_id, *redaction, judged);
    }
    if unseen.len() == MAX_JUDGED {
        edit.put_unfinished(target);
    }
    mark(edit, target, target_id)
}

/// Judges redactions again after the state at an event has become known: the event itself if it is
/// a redaction, and the redactions that arrived after it if it is power levels.
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
    let replaced = match before {
        Some(before) => state_entry(edit, before, "m.room.power_levels")?,
        None => None,
    };
    edit.put_power(node.arrival, event, Power { before: replaced, judged_up_to: None });
    judge_later(edit, event)
}

/// Judges redactions again that arrived after power levels: at most [`MAX_JUDGED`] now.
pub(super) fn judge_later(edit: &mut Edit<'_>, event: EventNum) -> Result<(), StoreError> {
    let arrival = edit.node(event)?.arrival;
    let Some(power) = edit.power(edit.room_num(), arrival, event)? else { return Ok(()) };
    let after = power.judged_up_to.unwrap_or(Arrival { arrival, event });
    if let Some(judged_up_to) = judge_after(edit, after)? {
        edit.put_power(arrival, event, Power { judged_up_to: Some(judged_up_to), ..power });
        edit.put_unfinished(event);
    }
    Ok(())
}

/// Judges redactions again that arrived after a position, at most [`MAX_JUDGED`]. Returns the position
/// to continue from; `None` if no redactions are left.
pub(super) fn judge_after(
    edit: &mut Edit<'_>,
    after: Arrival,
) -> Result<Option<Arrival>, StoreError> {
    let later = edit.redactions_after(edit.room_num(), after, MAX_JUDGED)?;
    let version = version_of(edit)?;
    for redaction in later.iter().map(|it| it.event) {
        if let Some(pdu) = parse_stored(edit, redaction, version)? {
            judge(edit, redaction, &pdu)?;
        }
    }
    Ok(later.last().copied().filter(|_| later.len() == MAX_JUDGED))
}

/// Prepares the removal of a redaction. If its target is hidden by it, or may be, only the target's
/// redacted form stays stored. Unless the redaction may return, a target that is not stored yet will
/// never be.
pub(super) fn purge(
    edit: &mut Edit<'_>,
    event: EventNum,
    read: &Event,
    may_return: bool,
) -> Result<(), StoreError> {
    let Some(target_id) = take_off_list(edit, event, read)? else { return Ok(()) };
    if edit.event_num(edit.room_num(), &target_id)?.is_none() && !may_return {
        edit.bury(&target_id);
    }
    keep_hidden(edit, &target_id)
}

/// Removes the notes about a redaction. Returns the id of its target, whose flags are then to be set
/// again; `None` if the event redacts none.
pub(super) fn take_off_list(
    edit: &mut Edit<'_>,
    event: EventNum,
    read: &Event,
) -> Result<Option<String>, StoreError> {
    let Some(pdu) = read.pdu() else { return Ok(None) };
    let Some(target_id) = redacts(edit, event, pdu)? else { return Ok(None) };
    if let Some(judged) = edit.judgement(edit.room_num(), &target_id, event)? {
        edit.remove_redaction(&target_id, event, judged);
    }
    let arrival = edit.node(event)?.arrival;
    edit.remove_listed_redaction(arrival, event);
    Ok(Some(target_id))
}

/// Keeps an event hidden that is hidden by a redaction, or may be, whatever becomes of the redaction:
/// only the redacted form stays stored. Does nothing for an event that is not stored.
pub(super) fn keep_hidden(edit: &mut Edit<'_>, target_id: &str) -> Result<(), StoreError> {
    let Some(target) = edit.event_num(edit.room_num(), target_id)? else { return Ok(()) };
    let node = edit.node(target)?;
    let is_hidden = Redacted::of_flags(node.flags).is_hidden();
    if is_hidden && let Some(parsed) = parse_stored(edit, target, version_of(edit)?)? {
        strip(edit, target, &parsed);
    }
    mark(edit, target, target_id)?;
    // A reader may have read the whole body just now: the flag still hides it.
    let mut node = edit.node(target)?;
    node.flags.redacted |= is_hidden;
    edit.put_node(target, node)
}

/// Judges an event again, if it is a listed redaction and its target is stored and readable.
pub(super) fn judge(edit: &mut Edit<'_>, redaction: EventNum, pdu: &Pdu) -> Result<(), StoreError> {
    let room = edit.room_num();
    let Some(target_id) = redacts(edit, redaction, pdu)? else { return Ok(()) };
    let target_id = target_id.as_str();
    let Some(target) = edit.event_num(room, target_id)? else { return Ok(()) };
    let Some(before) = edit.judgement(room, target_id, redaction)? else { return Ok(()) };
    let Some(target_pdu) = parse_stored(edit, target, version_of(edit)?)? else { return Ok(()) };
    let judged = judgement(edit, redaction, pdu, &target_pdu)?;
    if judged == before {
        return Ok(());
    }
    edit.remove_redaction(target_id, redaction, before);
    edit.put_redaction(target_id, redaction, judged);
    mark(edit, target, target_id)
}

/// Sets an event's redaction flags according to the judgements on its redactions. An unreadable event
/// has none: it has no redacted form, and redactions of it are not judged.
pub(super) fn mark(
    edit: &mut Edit<'_>,
    target: EventNum,
    target_id: &str,
) -> Result<(), StoreError> {
    let has = |edit: &Edit<'_>, judgement| -> Result<bool, StoreError> {
        Ok(!edit.redactions_of(edit.room_num(), target_id, judgement, 1)?.is_empty())
    };
    let redacted = has(edit, Judgement::Heeded)?;
    let pending = has(edit, Judgement::Unseen)? || has(edit, Judgement::Waiting)?;
    let mut node = edit.node(target)?;
    if node.flags.unreadable || Redacted::of_flags(node.flags) == (Redacted { redacted, pending }) {
        return Ok(());
    }
    node.flags.redacted = redacted;
    node.flags.redaction_pending = pending;
    if redacted {
        edit.note_content_due(target)?;
    }
    edit.put_node(target, node)
}

/// Whether an event is hidden by redactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redacted {
    /// Whether a redaction of it takes effect.
    pub redacted: bool,
    /// Whether the effect of some redaction of it is not known yet.
    pub pending: bool,
}

impl Redacted {
    /// The facts that an event's flags express.
    #[must_use]
    pub fn of_flags(flags: Flags) -> Self {
        Self { redacted: flags.redacted, pending: flags.redaction_pending }
    }

    /// Whether the event is hidden, or may have to be.
    #[must_use]
    pub fn is_hidden(self) -> bool {
        self.redacted || self.pending
    }
}

/// Derives again whether an event is redacted. Redactions that were judged to take no effect are
/// not judged again.
pub(super) fn derive(
    edit: &Edit<'_>,
    target: EventNum,
    target_id: &str,
) -> Result<Redacted, StoreError> {
    let version = version_of(edit)?;
    let room = edit.room_num();
    let mut derived = Redacted::default();
    let Some(target_pdu) = parse_stored(edit, target, version)? else { return Ok(derived) };
    for judged in [Judgement::Unseen, Judgement::Waiting, Judgement::Heeded] {
        for redaction in edit.redactions_of(room, target_id, judged, usize::MAX)? {
            let judged = match parse_stored(edit, redaction, version)? {
                Some(pdu) => judgement(edit, redaction, &pdu, &target_pdu)?,
                None => Judgement::Waiting,
            };
            derived.redacted |= judged == Judgement::Heeded;
            derived.pending |= judged == Judgement::Waiting;
        }
    }
    Ok(derived)
}

/// Whether redactions of a room version need power. Otherwise, the authorisation rules decide.
fn needs_power(version: RoomVersion) -> bool {
    !version.rules().authorization.special_case_room_redaction
}

/// Judges whether a redaction takes effect.
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
    if !needs_power(version) || pdu.sender_server() == target.sender_server() {
        return Ok(Judgement::Heeded);
    }
    let EventNode { state_after, arrival, .. } = edit.node(redaction)?;
    // A redaction is no state event, so the state after it is the state before it.
    let Some(state) = state_after else { return Ok(Judgement::Waiting) };
    let rules = &version.rules().authorization;
    Ok(match has_power(edit, state, pdu, rules)? {
        None => Judgement::Waiting,
        Some(false) => Judgement::Unheeded,
        Some(true) if has_lost_power(edit, arrival, state, pdu, rules)? => Judgement::Unheeded,
        Some(true) => Judgement::Heeded,
    })
}

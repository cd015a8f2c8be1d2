//! Replaces what is stored of an event: its bytes by other bytes of the same event, and its verdict.
//!
//! What follows from it is stored at once where that is little work. What follows for states, and for
//! the forward extremities behind an event, is noted, and [derived again](super::derive_again) later.

use super::{
    NewEvent, Refusal, Verdict,
    check::Checked,
    extremities, given_state, redaction, redaction_again,
    refusal::NotTaken,
    remains,
    stored::{read_stored, version_of},
};
use crate::{
    pdu::{Event, Pdu},
    store::{
        DeriveAgain, Edit, EventNode, EventNum, Flags, Judged as _, PrevEvent, StoreError, View,
    },
};

/// What to do with an event that is stored with other bytes or with another verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replace {
    /// The event is refused.
    #[default]
    Never,
    /// The new bytes and the new verdict are stored; but of an event that is stored in its redacted
    /// form, only the signatures are replaced.
    Changed,
    /// The new bytes and the new verdict are stored.
    All,
}

/// What is to be replaced of a stored event.
#[derive(Default)]
pub(super) struct Replacement {
    pub(super) body: Option<NewBody>,
    pub(super) verdict: Option<Verdict>,
}

/// Other bytes of a stored event.
pub(super) struct NewBody {
    old: Pdu,
    new: Pdu,
}

const OTHER_BYTES: &str = "other bytes are stored under this id; the first ones stay";
const OTHER_EVENT: &str = "another event is stored under this id, so its bytes are not replaced";
const UNREADABLE: &str = "other bytes are stored under this id, and the event breaks the format of its \
     room version in the stored or in the new form, so the bytes are not replaced";

/// Compares a new event with the bytes that are stored under its id. `None` if these stay.
pub(super) fn compare(
    edit: &Edit<'_>,
    number: EventNum,
    event: &NewEvent<'_>,
    checked: &Checked,
) -> Result<Option<NewBody>, NotTaken> {
    let stored = edit.body(edit.room_num(), number)?;
    if stored.pdu == checked.bytes {
        return Ok(None);
    }
    let refused = |text| {
        let event_id = checked.event.event_id().as_str();
        Err(NotTaken::refused(event_id, Refusal::Conflict(text)))
    };
    let unreadable = if event.replace == Replace::Never { OTHER_BYTES } else { UNREADABLE };
    let Event::Readable(new) = &checked.event else {
        return if is_other_space(&stored.pdu, &checked.bytes) {
            Ok(None)
        } else {
            refused(unreadable)
        };
    };
    let Ok(old) = Pdu::parse(&stored.pdu, checked.version) else { return refused(unreadable) };
    let old_text = old.canonical_json();
    if old_text == new.canonical_json() {
        return Ok(None);
    }
    let Ok(new_redacted) = new.redacted() else { return refused(OTHER_BYTES) };
    if event.replace == Replace::Never {
        // Of an event whose redaction was purged, only the redacted form is stored.
        let is_redacted_form = old_text == new_redacted.canonical_json();
        return if is_redacted_form { Ok(None) } else { refused(OTHER_BYTES) };
    }
    if !old.is_same_event(new) {
        return refused(OTHER_EVENT);
    }
    let stays_redacted = old.is_redacted_form() && event.replace == Replace::Changed;
    let new = if stays_redacted { new_redacted } else { Pdu::clone(new) };
    Ok((new.canonical_json() != old_text).then_some(NewBody { old, new }))
}

/// Whether two texts of an unreadable event differ in line breaks only. The room format has none
/// inside an event. In JSON, they may only stand between tokens.
fn is_other_space(stored: &[u8], new: &[u8]) -> bool {
    let is_break = |byte: u8| matches!(byte, b'\n' | b'\r');
    let in_a_line = |byte: &u8| if is_break(*byte) { b' ' } else { *byte };
    stored.iter().map(in_a_line).eq(new.iter().map(in_a_line))
}

/// Replaces the bytes of a stored event.
pub(super) fn replace_body(
    edit: &mut Edit<'_>,
    number: EventNum,
    NewBody { old, new }: NewBody,
) -> Result<(), StoreError> {
    let event_id = new.event_id().as_str().to_owned();
    edit.put_body(number, &event_id, new.bytes_as_received());
    let is_whole = !new.is_redacted_form();
    if !is_whole && !old.is_redacted_form() {
        remains::keep(edit, number, &old, &new);
    }
    let has_remains = edit.remains(edit.room_num(), number)?.is_some();
    if decides_states_otherwise(&old, &new, has_remains) {
        note_states(edit, number)?;
    }
    if !is_whole {
        return Ok(());
    }
    let node = edit.node(number)?;
    if !node.flags.outlier
        && let Some(target_id) = new.redacts()
        && edit.judgement(edit.room_num(), target_id.as_str(), number)?.is_none()
    {
        redaction::note(edit, number, &Event::Readable(Box::new(new)))?;
    }
    // It may be marked as redacted because only its redacted form was stored; if it is redacted, its
    // content is to be removed again.
    redaction::mark(edit, number, &event_id)?;
    edit.note_content_due(number)
}

/// Whether an event whose bytes were replaced may have another part in state resolution. Its type, its
/// state key, its membership and its history visibility are the same in every form; of other members,
/// what resolution needs may have been kept.
fn decides_states_otherwise(old: &Pdu, new: &Pdu, has_remains: bool) -> bool {
    const OF_MEMBER: [&str; 3] =
        ["membership", "third_party_invite", "join_authorised_via_users_server"];
    if old.state_key().is_none() {
        return false;
    }
    let (old_content, new_content) = (old.content(), new.content());
    match old.event_type() {
        "m.room.create" => old_content != new_content,
        _ if has_remains => false,
        "m.room.member" => OF_MEMBER.iter().any(|it| old_content.get(*it) != new_content.get(*it)),
        "m.room.power_levels" | "m.room.join_rules" | "m.room.third_party_invite" => {
            old_content != new_content
        }
        _ => false,
    }
}

/// Notes that the state after a state event, and all states that were resolved, are to be derived
/// again. The event may be used by the resolution of any of them.
pub(super) fn note_states(edit: &mut Edit<'_>, number: EventNum) -> Result<(), StoreError> {
    let merges_from = Some(EventNum(0));
    edit.note_derive_again(number, DeriveAgain { merges_from, ..DeriveAgain::STATE })
}

/// Replaces the verdict on a stored event.
pub(super) fn replace_verdict(
    edit: &mut Edit<'_>,
    number: EventNum,
    verdict: Verdict,
) -> Result<(), StoreError> {
    let before = edit.node(number)?;
    let mut node = before.clone();
    node.flags.rejected = verdict == Verdict::Rejected;
    node.flags.soft_failed = verdict == Verdict::SoftFailed;
    let is_outlier = node.flags.outlier;
    let flags = node.flags;
    edit.put_node(number, node)?;
    let read = read_stored(edit, number, version_of(edit)?)?;
    let is_rejection_changed = before.flags.rejected != flags.rejected;
    if is_rejection_changed && read.state_entry().is_some() {
        note_states(edit, number)?;
    }
    if is_outlier {
        return Ok(());
    }
    count(edit, before.flags, flags);
    if is_rejection_changed {
        if read.state_entry().is_some() {
            given_state::set_own(edit, number, &read, &before)?;
        }
        if flags.rejected {
            redaction_again::withdraw(edit, number, &read)?;
        } else {
            redaction::note(edit, number, &read)?;
        }
    }
    match (before.flags.is_accepted(), flags.is_accepted()) {
        (true, false) => {
            redaction_again::leave_power(edit, number)?;
            if flags.followed { Ok(()) } else { unfollow(edit, &before) }
        }
        (false, true) => {
            extremities::place(edit, number)?;
            if !is_rejection_changed && before.state_after.is_some() {
                redaction::settled(edit, number, &read)?;
            }
            Ok(())
        }
        (true, true) | (false, false) => Ok(()),
    }
}

/// Notes that it is to be determined again if the predecessors of an event are followed by an accepted
/// one.
pub(super) fn unfollow(edit: &mut Edit<'_>, node: &EventNode) -> Result<(), StoreError> {
    for edge in &node.prev_events {
        if let PrevEvent::Held(prev) = *edge
            && edit.find_node(prev)?.is_some_and(|it| it.flags.followed)
        {
            edit.note_derive_again(prev, DeriveAgain::FOLLOWED)?;
        }
    }
    Ok(())
}

fn count(edit: &mut Edit<'_>, before: Flags, after: Flags) {
    let changed = |count: u64, before: bool, after: bool| {
        count.saturating_add(after.into()).saturating_sub(before.into())
    };
    let room = &mut edit.room;
    room.rejected = changed(room.rejected, before.rejected, after.rejected);
    room.soft_failed = changed(room.soft_failed, before.soft_failed, after.soft_failed);
}

//! Derives records again with the code that derived them first: to compare them with what is
//! stored, and to replace what is wrong. What is to be compared or replaced is never read for it.

use std::mem;

use super::{place, redaction, remains, settle};
use crate::{
    pdu::Event,
    store::{Edit, EventNum, Judged as _, PrevEvent, StateNum, StoreError, View},
};

pub use super::redaction::Redacted;

/// The facts about an event that follow from the graph alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Derived {
    /// The state after the event, written into the edit under a new number; `None` if it cannot be
    /// known.
    pub state_after: Option<StateNum>,
    /// Whether the event is hidden by redactions.
    pub redacted: Redacted,
}

/// Derives the facts about a placed event again. The edit must not be committed.
pub fn derive(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<Derived, StoreError> {
    edit.room.resolved_from.clear();
    let node = edit.node(event)?;
    let after = settle::state_after(edit, event, &node, read)?;
    let redacted = derive_redaction(edit, event, read.event_id().as_str())?;
    Ok(Derived { state_after: after.map(|it| it.state), redacted })
}

/// Derives again whether an event is hidden by redactions.
pub fn derive_redaction(
    edit: &Edit<'_>,
    event: EventNum,
    event_id: &str,
) -> Result<Redacted, StoreError> {
    redaction::derive(edit, event, event_id)
}

/// Lists and judges an event as a redaction again, if it is one that is not listed. Returns whether
/// that changed anything.
pub fn note_redaction_again(
    edit: &mut Edit<'_>,
    event: EventNum,
    read: &Event,
) -> Result<bool, StoreError> {
    let Some(pdu) = read.pdu() else { return Ok(false) };
    let Some(target_id) = remains::redacts(edit, event, pdu)? else { return Ok(false) };
    let is_rejected = edit.node(event)?.flags.rejected;
    if is_rejected || edit.judgement(edit.room_num(), &target_id, event)?.is_some() {
        return Ok(false);
    }
    redaction::note(edit, event, read)?;
    Ok(true)
}

/// Derives the room's current state again and stores it in the edit. Returns it; `None` if it
/// cannot be known.
pub fn derive_current_state(edit: &mut Edit<'_>) -> Result<Option<StateNum>, StoreError> {
    edit.room.current_state = None;
    edit.room.resolved_from.clear();
    settle::refresh_current_state(edit)?;
    Ok(edit.room.current_state)
}

/// Derives an event's edges and depth again from its body, and notes its missing predecessors
/// again. Returns whether that changed anything.
pub fn link_again(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<bool, StoreError> {
    let stored = edit.node(event)?;
    let mut node = stored.clone();
    let mut are_all_noted = true;
    node.depth = read.depth();
    if !node.flags.outlier {
        // Predecessors beyond the limit have no edges and are not noted.
        let linked = read.prev_events().iter().take(place::MAX_PREV_EVENTS);
        for ((position, edge), prev) in (0u32..).zip(&stored.prev_events).zip(linked) {
            let noted = || edit.index_of_missing(edit.room_num(), prev.as_str(), event);
            are_all_noted &= *edge != PrevEvent::Missing || noted()? == Some(position);
        }
        node.prev_events = place::link(edit, event, read)?;
    }
    let is_changed = node != stored || !are_all_noted;
    edit.put_node(event, node)?;
    Ok(is_changed)
}

/// Removes the state after an event and works it out again, if that is possible now.
pub fn settle_again(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<(), StoreError> {
    // The stored current state may be wrong, so nothing is derived from it.
    let current = edit.room.current_state.take();
    let resolved_from = mem::take(&mut edit.room.resolved_from);
    let mut node = edit.node(event)?;
    node.state_after = None;
    edit.put_node(event, node)?;
    settle::settle_read(edit, event, read)?;
    edit.room.current_state = current;
    edit.room.resolved_from = resolved_from;
    Ok(())
}

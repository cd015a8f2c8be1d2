//! What follows from other records, worked out anew by what worked it out first: to be compared
//! with what is held, and to take its place where it is wrong. Nothing is taken from what is to be
//! compared, or replaced.

use std::mem;

use super::{place, redaction, settle};
use crate::{
    pdu::Event,
    store::{Edit, EventNum, Judged as _, PrevEvent, StateNum, StoreError, View},
};

/// What follows from the graph alone, worked out anew, for comparison with what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Derived {
    /// The state after the event, if it can be known. Written into the edit, under a number of
    /// its own.
    pub state_after: Option<StateNum>,
    /// Whether a valid redaction is held.
    pub redacted: bool,
    /// Whether there is a redaction whose validity cannot be told.
    pub redaction_pending: bool,
}

/// Derives anew what is known of a placed event. The edit is not to be committed.
///
/// # Errors
/// When the store fails.
pub fn derive(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<Derived, StoreError> {
    edit.room.resolved_from.clear();
    let node = edit.node(event)?;
    let after = settle::state_after(edit, event, (&node, read))?;
    let state_after = after.map(|it| it.state);
    let (redacted, redaction_pending) = derive_redaction(edit, event, read.event_id().as_str())?;
    Ok(Derived { state_after, redacted, redaction_pending })
}

/// Derives anew whether an event is redacted, and whether that cannot be told of some redaction yet.
///
/// # Errors
/// When the store fails.
pub fn derive_redaction(
    edit: &Edit<'_>,
    event: EventNum,
    event_id: &str,
) -> Result<(bool, bool), StoreError> {
    redaction::derive(edit, event, event_id)
}

/// Notes again that an event redacts another, if it does and that is not noted; judges it, and marks
/// its target. Whether that changed anything.
///
/// # Errors
/// When the store fails.
pub fn note_redaction_again(
    edit: &mut Edit<'_>,
    event: EventNum,
    read: &Event,
) -> Result<bool, StoreError> {
    let Some(target_id) = read.redacts() else { return Ok(false) };
    let is_rejected = edit.node(event)?.flags.rejected;
    if is_rejected || edit.judgement(edit.room_num(), target_id.as_str(), event)?.is_some() {
        return Ok(false);
    }
    redaction::note(edit, event, read)?;
    Ok(true)
}

/// Derives the room's current state anew, and puts it into the edit.
///
/// # Errors
/// When the store fails.
pub fn derive_current_state(edit: &mut Edit<'_>) -> Result<Option<StateNum>, StoreError> {
    edit.room.current_state = None;
    edit.room.resolved_from.clear();
    settle::refresh_current_state(edit)?;
    Ok(edit.room.current_state)
}

/// Draws an event's edges and depth again from its body, and notes again what is missing. Whether
/// that changed anything.
///
/// # Errors
/// When the store fails.
pub fn link_again(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<bool, StoreError> {
    let held = edit.node(event)?;
    let (mut node, mut all_noted) = (held.clone(), true);
    node.depth = read.depth();
    if !node.flags.outlier {
        // Of predecessors that no edge is drawn to, nothing is noted.
        let drawn = read.prev_events().iter().take(place::MAX_PREV_EVENTS);
        for ((place, edge), prev) in (0u32..).zip(&held.prev_events).zip(drawn) {
            let noted = || edit.index_of_missing(edit.room_num(), prev.as_str(), event);
            all_noted &= *edge != PrevEvent::Missing || noted()? == Some(place);
        }
        node.prev_events = place::link(edit, event, read)?;
    }
    let changed = node != held || !all_noted;
    edit.put_node(event, node)?;
    Ok(changed)
}

/// Forgets the state after an event and works it out again, if that is possible now.
///
/// # Errors
/// When the store fails.
pub fn settle_again(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<(), StoreError> {
    // It may be the room's current state that is wrong.
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

//! Derives the state after an event again, and compares it with the state that is stored.

use crate::{
    ingest::{
        redaction, redaction_again, settle,
        stored::{read_stored, version_of},
    },
    state::map,
    store::{Edit, EventNum, StateNum, StoreError, View},
};

/// Derives the state after an event again. Returns whether the states after its followers may change
/// by that.
pub(super) fn derive(edit: &mut Edit<'_>, event: EventNum) -> Result<bool, StoreError> {
    let node = edit.find_node(event)?.filter(|it| !it.flags.outlier);
    let Some(mut node) = node else { return Ok(false) };
    let Some(before) = node.state_after else {
        // It may be known now. It is derived when all others have been.
        edit.put_unsettled(event)?;
        return Ok(false);
    };
    let read = read_stored(edit, event, version_of(edit)?)?;
    let is_state_event = read.state_entry().is_some();
    if !is_state_event && edit.given_state(edit.room_num(), event)?.is_some() {
        return Ok(false);
    }
    let first_new = edit.next_state();
    let Some(after) = settle::state_after(edit, event, &node, &read)? else {
        node.state_after = None;
        settle::wait(edit, event, &node)?;
        edit.put_node(event, node)?;
        redaction_again::unsettled(edit, event, &read)?;
        return Ok(true);
    };
    let is_same = is_same(edit, before, after.state)?;
    if is_same && (!is_state_event || is_same_before(edit, before, after.state)?) {
        edit.drop_states_from(first_new);
    } else {
        node.state_after = Some(after.state);
        if after.is_before_unknown {
            settle::wait(edit, event, &node)?;
        }
        edit.put_node(event, node)?;
    }
    redaction::settled(edit, event, &read)?;
    Ok(!is_same)
}

/// Whether two states have the same events and the same history visibility.
fn is_same(edit: &Edit<'_>, one: StateNum, other: StateNum) -> Result<bool, StoreError> {
    let room = edit.room_num();
    let visibility = |it| edit.state_facts(room, it).map(|it| it.history_visibility);
    Ok(one == other
        || (visibility(one)? == visibility(other)?
            && map::diff(&edit.states(room), one.root(), other.root())?.is_empty()))
}

/// Whether the states before two states are the same.
fn is_same_before(edit: &Edit<'_>, one: StateNum, other: StateNum) -> Result<bool, StoreError> {
    let before = |it| edit.state_facts(edit.room_num(), it).map(|it| it.before);
    match (before(one)?, before(other)?) {
        (None, None) => Ok(true),
        (Some(one), Some(other)) => is_same(edit, one, other),
        (None, Some(_)) | (Some(_), None) => Ok(false),
    }
}

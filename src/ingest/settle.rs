//! The state after an event, as soon as it can be known; and the room's current state.
//!
//! A state is known when that of all predecessors is, or when it came with the event. Until then
//! the event waits, and what is not known hides it. A state once known never changes.

use super::{
    extremities,
    held::{parse_held, version_of},
    place, redaction, resolve,
    state::{self, Base, Entry},
};
use crate::{
    pdu::Pdu,
    store::{Edit, EventNode, EventNum, PrevEvent, StateNum, StoreError, Unsettled, View},
};

/// Forward extremities that the current state is made of: those that arrived last. Any server of the
/// room can make more of them than can be looked at with each event.
const EXTREMITIES_LOOKED_AT: usize = 256;
/// Distinct states that the current state is resolved from: as many as an event may have
/// predecessors, so that it is the state before an event that could be sent now.
const STATES_RESOLVED: usize = 20;

/// Does what a note of an event asks for: works out the state after it, if that is possible now,
/// and goes on telling other events of it. What is left then is noted again.
pub(super) fn work_off(edit: &mut Edit<'_>, note: Unsettled) -> Result<(), StoreError> {
    let Unsettled { event, is_unfinished } = note;
    // It may have been purged since it was noted.
    let Some(node) = edit.find_node(event)? else { return Ok(()) };
    let EventNode { flags, state_after, prev_events, .. } = node;
    if is_unfinished {
        place::finish(edit, event, flags.outlier)?;
        if flags.followed && !flags.is_accepted() {
            extremities::follow(edit, &prev_events)?;
        }
    }
    let Some(pdu) = parse_held(edit, event, version_of(edit)?)? else { return Ok(()) };
    if is_unfinished {
        redaction::judge_unseen(edit, event, &pdu)?;
        redaction::judge_later(edit, event)?;
    }
    if flags.outlier {
        return Ok(());
    }
    if state_after.is_some() {
        return tell_who_waits(edit, event);
    }
    settle_parsed(edit, event, &pdu)
}

/// Works out the state after an event that is held, if that is possible now, and notes whose state
/// may be known because of it.
pub(super) fn settle_parsed(
    edit: &mut Edit<'_>,
    event: EventNum,
    pdu: &Pdu,
) -> Result<(), StoreError> {
    // It may have been purged since it was noted.
    let Some(mut node) = edit.find_node(event)? else { return Ok(()) };
    if node.flags.outlier || node.state_after.is_some() {
        return Ok(());
    }
    let Some(after) = state_after(edit, event, (&node, pdu))? else {
        return wait(edit, event, &node);
    };
    node.state_after = Some(after);
    edit.put_node(event, node)?;
    tell_who_waits(edit, event)?;
    redaction::settled(edit, event, pdu)
}

/// Notes of events which wait for the state after another that theirs may be known now.
fn tell_who_waits(edit: &mut Edit<'_>, event: EventNum) -> Result<(), StoreError> {
    let followers = edit.waiting_for(edit.room_num(), event, place::TOLD_AT_ONCE)?;
    for follower in &followers {
        edit.remove_waiting(event, *follower);
        edit.put_unsettled(*follower)?;
    }
    if followers.len() == place::TOLD_AT_ONCE {
        edit.put_unfinished(event);
    }
    Ok(())
}

/// Notes for which predecessors' states an event waits. Those that are not placed are noted
/// already, as missing.
fn wait(edit: &mut Edit<'_>, event: EventNum, node: &EventNode) -> Result<(), StoreError> {
    for edge in &node.prev_events {
        if let PrevEvent::Held(prev) = *edge
            && edit.node(prev)?.state_after.is_none()
        {
            edit.put_waiting(prev, event);
        }
    }
    Ok(())
}

pub(super) fn state_after(
    edit: &mut Edit<'_>,
    event: EventNum,
    (node, pdu): (&EventNode, &Pdu),
) -> Result<Option<StateNum>, StoreError> {
    if let Some(given) = edit.given_state(edit.room_num(), event)? {
        return state::adopt_given(edit, event, &given);
    }
    let before = if node.prev_events.is_empty() {
        // Only a room's first event has nothing before it.
        if pdu.event_type() != "m.room.create" {
            return Ok(None);
        }
        None
    } else {
        let mut states = Vec::new();
        for edge in &node.prev_events {
            let PrevEvent::Held(prev) = *edge else { return Ok(None) };
            let Some(state) = edit.node(prev)?.state_after else { return Ok(None) };
            states.push(state);
        }
        let Some(before) = one_of(edit, event, states)? else { return Ok(None) };
        Some(before)
    };
    let entry = Entry::of(event, pdu).filter(|_| !node.flags.rejected);
    match (entry, before) {
        (None, Some(before)) => Ok(Some(before)),
        (entry, before) => {
            let base = Base { share: before, before };
            state::write(edit, base, entry.as_slice(), &[]).map(Some)
        }
    }
}

/// One state from several: the only one, or what they resolve to, for `event` to wait for what
/// that takes.
fn one_of(
    edit: &mut Edit<'_>,
    event: EventNum,
    mut states: Vec<StateNum>,
) -> Result<Option<StateNum>, StoreError> {
    states.sort_unstable();
    states.dedup();
    match states.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(*only)),
        several if several == edit.room.resolved_from && edit.room.current_state.is_some() => {
            Ok(edit.room.current_state)
        }
        several => resolve::merge(edit, event, several),
    }
}

/// Works out the state over the forward extremities, if they have changed. It is known only when
/// the states of all of them are. Of a room with very many of them, over those that arrived last.
pub(super) fn refresh_current_state(edit: &mut Edit<'_>) -> Result<(), StoreError> {
    let newest = edit.extremities(edit.room_num(), EXTREMITIES_LOOKED_AT)?;
    let mut states = Vec::new();
    for extremity in &newest {
        match extremity.state_after {
            Some(state) if states.contains(&state) => {}
            Some(state) => states.push(state),
            None => {
                edit.room.current_state = None;
                edit.room.resolved_from.clear();
                return Ok(());
            }
        }
        if states.len() >= STATES_RESOLVED {
            break;
        }
    }
    states.sort_unstable();
    // What could not be resolved is not tried again before an event comes that was looked for.
    if states != edit.room.resolved_from {
        edit.room.current_state = match newest.first() {
            Some(newest) => one_of(edit, newest.event, states.clone())?,
            None => None,
        };
        edit.room.resolved_from = states;
    }
    Ok(())
}

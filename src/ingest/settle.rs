//! The state after an event, as soon as it can be known; and the room's current state.
//!
//! A state is known when that of all predecessors is, or when it came with the event, then or later.
//! Until then the event waits, and what is not known hides it. A state once known never changes. An
//! event that cannot be read changes no state: the one after it is the one before it.
//!
//! While the current state is not known, those that were known last decide who may ask, together
//! with those of the forward extremities whose state is known: [`Room::last_known`].

use tracing::{info, warn};

use super::{
    extremities,
    held::{read_held, version_of},
    place, redaction, resolve,
    state::{self, Base, Entry},
};
use crate::{
    pdu::Event,
    store::{Edit, EventNode, EventNum, PrevEvent, Room, StateNum, StoreError, Unsettled, View},
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
    let read = read_held(edit, event, version_of(edit)?)?;
    if is_unfinished && let Some(pdu) = read.pdu() {
        redaction::judge_unseen(edit, event, pdu)?;
        redaction::judge_later(edit, event)?;
    }
    if flags.outlier {
        return Ok(());
    }
    let is_given = || edit.given_state(edit.room_num(), event).map(|it| it.is_some());
    if state_after.is_some() && !is_given()? {
        return tell_who_waits(edit, event);
    }
    settle_read(edit, event, &read)?;
    if state_after.is_some() { tell_who_waits(edit, event) } else { Ok(()) }
}

/// Works out the state after an event that is held, if that is possible now, and notes whose state
/// may be known because of it.
pub(super) fn settle_read(
    edit: &mut Edit<'_>,
    event: EventNum,
    read: &Event,
) -> Result<(), StoreError> {
    let Some(mut node) = edit.find_node(event)? else { return Ok(()) };
    if node.flags.outlier {
        return Ok(());
    }
    if let Some(after) = node.state_after {
        let is_given = edit.given_state(edit.room_num(), event)?.is_some();
        return if is_given { settle_before(edit, event, (node, after), read) } else { Ok(()) };
    }
    let Some(After { state, before_unknown }) = state_after(edit, event, (&node, read))? else {
        return wait(edit, event, &node);
    };
    if before_unknown {
        wait(edit, event, &node)?;
    }
    node.state_after = Some(state);
    edit.put_node(event, node)?;
    tell_who_waits(edit, event)?;
    redaction::settled(edit, event, read)
}

/// Notes the state before a state event whose state came with it, now that it may be known.
fn settle_before(
    edit: &mut Edit<'_>,
    event: EventNum,
    (mut node, after): (EventNode, StateNum),
    read: &Event,
) -> Result<(), StoreError> {
    if read.state_entry().is_none() {
        return Ok(());
    }
    match state_before(edit, event, (&node, read))? {
        Before::Nothing => Ok(()),
        Before::Unknown => wait(edit, event, &node),
        Before::State(before) => {
            let state = state::with_before(edit, after, Some(before))?;
            if state == after {
                return Ok(());
            }
            node.state_after = Some(state);
            edit.put_node(event, node)?;
            redaction::settled(edit, event, read)
        }
    }
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

/// The state after an event.
pub(super) struct After {
    pub(super) state: StateNum,
    /// It came with a state event before which the state is not known yet.
    before_unknown: bool,
}

/// The state before an event.
enum Before {
    /// It makes the room.
    Nothing,
    /// That of a predecessor is not known, or they cannot be resolved yet.
    Unknown,
    State(StateNum),
}

/// The state after an event; nothing if it cannot be known yet.
pub(super) fn state_after(
    edit: &mut Edit<'_>,
    event: EventNum,
    (node, read): (&EventNode, &Event),
) -> Result<Option<After>, StoreError> {
    if let Some(given) = edit.given_state(edit.room_num(), event)? {
        let state = state::adopt_given(edit, event, &given)?;
        let Some(state) = state else { return Ok(None) };
        // Only of a state event may the state before it be asked for.
        if read.state_entry().is_none() {
            return Ok(Some(After { state, before_unknown: false }));
        }
        let before = state_before(edit, event, (node, read))?;
        let (before_unknown, before) = match before {
            Before::Nothing => (false, None),
            Before::Unknown => (true, None),
            Before::State(before) => (false, Some(before)),
        };
        let state = state::with_before(edit, state, before)?;
        return Ok(Some(After { state, before_unknown }));
    }
    let before = match state_before(edit, event, (node, read))? {
        Before::Nothing => None,
        Before::Unknown => return Ok(None),
        Before::State(before) => Some(before),
    };
    let is_change = read.pdu().is_some() && !node.flags.rejected;
    let entry = Entry::of(event, read).filter(|_| is_change);
    let state = match (entry, before) {
        (None, Some(before)) => before,
        (entry, before) => {
            state::write(edit, Base { share: before, before }, entry.as_slice(), &[])?
        }
    };
    Ok(Some(After { state, before_unknown: false }))
}

fn state_before(
    edit: &mut Edit<'_>,
    event: EventNum,
    (node, read): (&EventNode, &Event),
) -> Result<Before, StoreError> {
    if node.prev_events.is_empty() {
        // Only a room's first event has nothing before it. One that cannot be read makes no room.
        let makes_room = read.pdu().is_some_and(|it| it.event_type() == "m.room.create");
        return Ok(if makes_room { Before::Nothing } else { Before::Unknown });
    }
    let mut states = Vec::new();
    for edge in &node.prev_events {
        let PrevEvent::Held(prev) = *edge else { return Ok(Before::Unknown) };
        let Some(state) = edit.node(prev)?.state_after else { return Ok(Before::Unknown) };
        states.push(state);
    }
    Ok(one_of(edit, event, states)?.map_or(Before::Unknown, Before::State))
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
            None => return lose_current_state(edit, extremity.event),
        }
        if states.len() >= STATES_RESOLVED {
            break;
        }
    }
    states.sort_unstable();
    // What could not be resolved is not tried again before an event comes that was looked for.
    if states != edit.room.resolved_from {
        let Some(newest) = newest.first() else {
            (edit.room.current_state, edit.room.resolved_from) = (None, states);
            return Ok(());
        };
        match one_of(edit, newest.event, states.clone())? {
            Some(state) => gain_current_state(&mut edit.room, state),
            None => lose_current_state(edit, newest.event)?,
        }
        edit.room.resolved_from = states;
    }
    Ok(())
}

/// The current state is known.
fn gain_current_state(room: &mut Room, state: StateNum) {
    if !room.last_known.is_empty() {
        info!(room.id = ?room.room_id, "the room's current state is known again");
    }
    room.current_state = Some(state);
    room.last_known.clear();
    room.known_over.clear();
}

/// The current state is not known any more, since the state after `event` is not: who may ask is
/// decided from now on by what was known last.
fn lose_current_state(edit: &mut Edit<'_>, event: EventNum) -> Result<(), StoreError> {
    let over = std::mem::take(&mut edit.room.resolved_from);
    let Some(last) = edit.room.current_state.take() else { return Ok(()) };
    edit.room.last_known = vec![last];
    edit.room.known_over = over;
    let event_id = edit.body(edit.room_num(), event)?.event_id;
    warn!(
        room.id = ?edit.room.room_id,
        event.id = ?event_id,
        "the room's current state is not known any more, as that after this event is not; who may \
         ask is decided by what was known last; append the event again with `state_after`"
    );
    Ok(())
}

/// While the current state is not known, an event of unknown state may follow forward extremities
/// whose state is known: that they decided who may ask stays so.
pub(super) fn keep_deciding(
    edit: &mut Edit<'_>,
    event: EventNum,
    followed: &[EventNum],
) -> Result<(), StoreError> {
    let is_kept = edit.room.current_state.is_none() && !edit.room.last_known.is_empty();
    if !is_kept || edit.node(event)?.state_after.is_some() {
        return Ok(());
    }
    for it in followed {
        let state = edit.node(*it)?.state_after;
        let room = &mut edit.room;
        room.last_known.extend(
            state.filter(|it| !room.last_known.contains(it) && !room.known_over.contains(it)),
        );
    }
    Ok(())
}

//! Step 6: the state after an event, as soon as it can be known, and the room's current state.
//!
//! The state after an event is known when the states after all predecessors are known, or when it
//! is given with the event or later. Until then the event waits, and it is served in its redacted
//! form only. A known state never changes. An unreadable event changes no state: the state after
//! it is the state before it.
//!
//! While the current state of a room is not known, access is decided by the states that were known
//! last, together with the states after the forward extremities that have one:
//! [`Room::last_known`].

use tracing::{info, warn};

use super::{
    derive_again, extremities, place, redaction, resolve,
    state::{self, Base, MapEntry},
    stored::{read_stored, version_of},
};
use crate::{
    pdu::Event,
    store::{
        Deriving as _, Edit, EventNode, EventNum, PrevEvent, Room, StateNum, StoreError, Unsettled,
        View,
    },
};

/// The most forward extremities that the current state is made of: those that arrived last. Any
/// server of the room can make more than can be read with each event.
const MAX_EXTREMITIES_READ: usize = 256;
/// The most distinct states that the current state is resolved from: as many as an event may have
/// predecessors, so the current state is the state before an event that could be sent now.
const MAX_STATES_RESOLVED: usize = 20;

/// Does the work that a note asks for: settles the event if that is possible now, and continues to
/// notify other events of it. If work is left, the event is noted again.
pub(super) fn work_off(edit: &mut Edit<'_>, note: Unsettled) -> Result<(), StoreError> {
    let Unsettled { event, is_unfinished } = note;
    // The event may have been purged since it was noted.
    let Some(node) = edit.find_node(event)? else { return Ok(()) };
    let EventNode { flags, state_after, prev_events, .. } = node;
    if is_unfinished {
        place::finish(edit, event, flags.outlier)?;
        if flags.followed && !flags.is_accepted() {
            extremities::follow(edit, &prev_events)?;
        }
    }
    let read = read_stored(edit, event, version_of(edit)?)?;
    if is_unfinished && let Some(pdu) = read.pdu() {
        redaction::judge_unseen(edit, event, pdu)?;
        redaction::judge_later(edit, event)?;
    }
    if flags.outlier {
        return Ok(());
    }
    let is_given = || edit.given_state(edit.room_num(), event).map(|it| it.is_some());
    if state_after.is_some() && !is_given()? {
        return notify_waiting(edit, event);
    }
    settle_read(edit, event, &read)?;
    if state_after.is_some() { notify_waiting(edit, event) } else { Ok(()) }
}

/// As [`settle_read`], but while the room is being derived again, that is left for later.
pub(super) fn settle_or_note(
    edit: &mut Edit<'_>,
    event: EventNum,
    read: &Event,
) -> Result<(), StoreError> {
    if derive_again::is_frozen(edit)? {
        return edit.put_unsettled(event);
    }
    settle_read(edit, event, read)
}

/// Works out the state after a stored event, if that is possible now, and notes the events whose
/// state may be known because of it.
pub(super) fn settle_read(
    edit: &mut Edit<'_>,
    event: EventNum,
    read: &Event,
) -> Result<(), StoreError> {
    let Some(mut node) = edit.find_node(event)? else { return Ok(()) };
    if node.flags.outlier {
        return Ok(());
    }
    if node.state_after.is_some() {
        let is_given = edit.given_state(edit.room_num(), event)?.is_some();
        return if is_given { settle_before(edit, event, node, read) } else { Ok(()) };
    }
    let Some(after) = state_after(edit, event, &node, read)? else {
        return wait(edit, event, &node);
    };
    if after.is_before_unknown {
        wait(edit, event, &node)?;
    }
    node.state_after = Some(after.state);
    edit.put_node(event, node)?;
    notify_waiting(edit, event)?;
    redaction::settled(edit, event, read)
}

/// Records the state before a state event whose state was given, if it is known now.
fn settle_before(
    edit: &mut Edit<'_>,
    event: EventNum,
    mut node: EventNode,
    read: &Event,
) -> Result<(), StoreError> {
    let Some(after) = node.state_after.filter(|_| read.state_entry().is_some()) else {
        return Ok(());
    };
    match state_before(edit, event, &node, read)? {
        StateBefore::Empty => Ok(()),
        StateBefore::Unknown => wait(edit, event, &node),
        StateBefore::Known(before) => {
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

/// Notes that the states of events which wait for the state after `event` may be known now.
fn notify_waiting(edit: &mut Edit<'_>, event: EventNum) -> Result<(), StoreError> {
    let followers = edit.waiting_for(edit.room_num(), event, place::MAX_NOTIFIED)?;
    for follower in &followers {
        edit.remove_waiting(event, *follower);
        edit.put_unsettled(*follower)?;
    }
    if followers.len() == place::MAX_NOTIFIED {
        edit.put_unfinished(event);
    }
    Ok(())
}

/// Notes the predecessors whose states an event waits for. Missing predecessors are noted
/// elsewhere.
pub(super) fn wait(
    edit: &mut Edit<'_>,
    event: EventNum,
    node: &EventNode,
) -> Result<(), StoreError> {
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
pub(super) struct StateAfter {
    pub(super) state: StateNum,
    /// Whether the event is a state event whose state was given, before the state before it is
    /// known.
    pub(super) is_before_unknown: bool,
}

/// The state before an event.
enum StateBefore {
    /// The event makes the room: there is no state before it.
    Empty,
    /// The state after a predecessor is not known, or the states cannot be resolved yet.
    Unknown,
    Known(StateNum),
}

/// The state after an event; `None` if it cannot be known yet.
pub(super) fn state_after(
    edit: &mut Edit<'_>,
    event: EventNum,
    node: &EventNode,
    read: &Event,
) -> Result<Option<StateAfter>, StoreError> {
    if let Some(given) = edit.given_state(edit.room_num(), event)? {
        let Some(state) = state::adopt_given(edit, event, &given)? else { return Ok(None) };
        // The state before is needed for state events only.
        if read.state_entry().is_none() {
            return Ok(Some(StateAfter { state, is_before_unknown: false }));
        }
        let before = state_before(edit, event, node, read)?;
        let is_before_unknown = matches!(before, StateBefore::Unknown);
        let before = match before {
            StateBefore::Empty | StateBefore::Unknown => None,
            StateBefore::Known(before) => Some(before),
        };
        let state = state::with_before(edit, state, before)?;
        return Ok(Some(StateAfter { state, is_before_unknown }));
    }
    let before = match state_before(edit, event, node, read)? {
        StateBefore::Empty => None,
        StateBefore::Unknown => return Ok(None),
        StateBefore::Known(before) => Some(before),
    };
    let is_change = read.pdu().is_some() && !node.flags.rejected;
    let entry = MapEntry::of(event, read).filter(|_| is_change);
    let state = match (entry, before) {
        (None, Some(before)) => before,
        (entry, before) => {
            state::write(edit, Base { share: before, before }, entry.as_slice(), &[])?
        }
    };
    Ok(Some(StateAfter { state, is_before_unknown: false }))
}

fn state_before(
    edit: &mut Edit<'_>,
    event: EventNum,
    node: &EventNode,
    read: &Event,
) -> Result<StateBefore, StoreError> {
    if node.prev_events.is_empty() {
        // Only the create event has no predecessors. An unreadable event does not make a room.
        let makes_room = read.pdu().is_some_and(|it| it.event_type() == "m.room.create");
        return Ok(if makes_room { StateBefore::Empty } else { StateBefore::Unknown });
    }
    let mut states = Vec::new();
    for edge in &node.prev_events {
        let PrevEvent::Held(prev) = *edge else { return Ok(StateBefore::Unknown) };
        let Some(state) = edit.node(prev)?.state_after else { return Ok(StateBefore::Unknown) };
        states.push(state);
    }
    Ok(one_of(edit, event, states)?.map_or(StateBefore::Unknown, StateBefore::Known))
}

/// Makes one state of several: the only distinct one, or the state that they resolve to. `None` if
/// there is no state, or if they cannot be resolved yet; `event` then waits for the events that are
/// missing for it.
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

/// Works out the current state again, if the states after the forward extremities have changed. It
/// is known only if all of these are known. In a room with very many forward extremities, only
/// those that arrived last are read. While the room is being derived again, nothing changes.
pub(super) fn refresh_current_state(edit: &mut Edit<'_>) -> Result<(), StoreError> {
    if edit.is_deriving(edit.room_num())? {
        return Ok(());
    }
    let newest = edit.extremities(edit.room_num(), MAX_EXTREMITIES_READ)?;
    let mut states = Vec::new();
    for extremity in &newest {
        match extremity.state_after {
            Some(state) if states.contains(&state) => {}
            Some(state) => states.push(state),
            None => return lose_current_state(edit, extremity.event),
        }
        if states.len() >= MAX_STATES_RESOLVED {
            break;
        }
    }
    states.sort_unstable();
    // States that could not be resolved are not tried again before a missing event is stored.
    if states == edit.room.resolved_from {
        return Ok(());
    }
    match newest.first() {
        None => edit.room.current_state = None,
        Some(newest) => match one_of(edit, newest.event, states.clone())? {
            Some(state) => gain_current_state(&mut edit.room, state),
            None => lose_current_state(edit, newest.event)?,
        },
    }
    edit.room.resolved_from = states;
    Ok(())
}

/// Records a current state that is known.
fn gain_current_state(room: &mut Room, state: StateNum) {
    if !room.last_known.is_empty() {
        info!(room.id = ?room.room_id, "the room's current state is known again");
    }
    room.current_state = Some(state);
    room.last_known.clear();
    room.known_over.clear();
}

/// Records that the current state is not known any more, because the state after `event` is not
/// known. From now on, access is decided by the state that was known last.
fn lose_current_state(edit: &mut Edit<'_>, event: EventNum) -> Result<(), StoreError> {
    let over = std::mem::take(&mut edit.room.resolved_from);
    let Some(last) = edit.room.current_state.take() else { return Ok(()) };
    edit.room.last_known = vec![last];
    edit.room.known_over = over;
    let event_id = edit.body(edit.room_num(), event)?.event_id;
    warn!(
        room.id = ?edit.room.room_id,
        event.id = ?event_id,
        "the room's current state is unknown, because the state after this event is; access is \
         decided by the state that was known last; append the event again with `state_after`"
    );
    Ok(())
}

/// Keeps the states after forward extremities that an event of unknown state follows, while the
/// current state is not known: they decided about access, and continue to.
pub(super) fn keep_last_known(
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

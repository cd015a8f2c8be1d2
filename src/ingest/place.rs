//! Step 5: an event's place in its room's graph: its number, its order of arrival, its edges.

use super::{
    NewEvent, Verdict, ban_redaction, check::Checked, extremities, given_state::GivenState,
    redaction,
};
use crate::{
    num,
    pdu::Event,
    store::{Edit, EventNode, EventNum, Flags, Follower, PrevEvent, StoreError, View},
};

/// The most predecessors of an event that get an edge. Homeservers refuse events with more
/// (<https://spec.matrix.org/v1.16/rooms/v11/#event-format>), but may hold events that are older
/// than that rule. The predecessors beyond are not reachable from the event: it has a gap there,
/// and the state after it is known only if it is given.
pub const MAX_PREV_EVENTS: usize = 20;
/// The most events that are notified of another event in one decision. Other servers choose how
/// many there are; a note on disk keeps the rest for later decisions.
pub(super) const MAX_NOTIFIED: usize = 64;

/// Stores the body of an event that the room does not hold, under a number of its own.
pub(super) fn add(edit: &mut Edit<'_>, event_id: &str, checked: &Checked) -> EventNum {
    let number = edit.add_event(event_id);
    edit.put_body(number, event_id, &checked.bytes);
    edit.room.unreadable += u64::from(checked.event.pdu().is_none());
    number
}

/// Gives an event that has a number its node, and its place in the graph unless it is an outlier.
/// Returns the events that were forward extremities until now.
pub(super) fn place(
    edit: &mut Edit<'_>,
    number: EventNum,
    event: &NewEvent<'_>,
    checked: &Checked,
    given_state: Option<GivenState>,
) -> Result<Vec<EventNum>, StoreError> {
    let event_id = checked.event.event_id().as_str();
    count(edit, event);
    if !notify_wanting(edit, event_id)? {
        edit.put_unfinished(number);
    }
    let mut node = EventNode {
        depth: checked.event.depth(),
        arrival: take_arrival(edit, event.arrival),
        flags: Flags { unreadable: checked.event.pdu().is_none(), ..event.flags() },
        state_after: None,
        prev_events: Vec::new(),
    };
    if event.outlier {
        edit.put_node(number, node)?;
        redaction::place_target(edit, number, &checked.event)?;
        ban_redaction::place(edit, number, &checked.event)?;
        return Ok(Vec::new());
    }
    node.prev_events = link(edit, number, &checked.event)?;
    edit.put_node(number, node)?;
    if let Some(given) = given_state {
        edit.put_given_state(number, &given.of(number));
    }
    if !link_followers(edit, number, event_id)? {
        edit.put_unfinished(number);
    }
    let followed = extremities::place(edit, number)?;
    redaction::place(edit, number, &checked.event)?;
    ban_redaction::place(edit, number, &checked.event)?;
    Ok(followed)
}

/// The event's position in the order of arrival: the one that the caller gives, or the room's next.
fn take_arrival(edit: &mut Edit<'_>, given: Option<i64>) -> i64 {
    let arrival = given.unwrap_or(edit.room.next_arrival);
    edit.room.next_arrival = edit.room.next_arrival.max(arrival.saturating_add(1));
    arrival
}

fn count(edit: &mut Edit<'_>, event: &NewEvent<'_>) {
    if event.outlier {
        edit.room.outliers += 1;
        return;
    }
    match event.verdict {
        Verdict::Accepted => {}
        Verdict::SoftFailed => edit.room.soft_failed += 1,
        Verdict::Rejected => edit.room.rejected += 1,
    }
}

/// Returns an event's edges to its predecessors, and notes which of these are missing: not stored,
/// or stored as outliers.
pub(super) fn link(
    edit: &mut Edit<'_>,
    number: EventNum,
    event: &Event,
) -> Result<Vec<PrevEvent>, StoreError> {
    let mut edges = Vec::new();
    for (position, prev) in (0u32..).zip(event.prev_events()).take(MAX_PREV_EVENTS) {
        if prev == event.event_id() {
            // Possible in room versions 1 and 2 only, where ids are chosen by the sender.
            edges.push(PrevEvent::Missing);
            continue;
        }
        match edit.event_num(edit.room_num(), prev.as_str())? {
            Some(prev) if !edit.node(prev)?.flags.outlier => edges.push(PrevEvent::Held(prev)),
            _ => {
                edit.put_missing(prev.as_str(), number, position);
                edges.push(PrevEvent::Missing);
            }
        }
    }
    if event.prev_events().len() > MAX_PREV_EVENTS {
        edges.push(PrevEvent::Missing);
    }
    Ok(edges)
}

/// Continues to notify other events of a stored event, where an earlier decision stopped at
/// [`MAX_NOTIFIED`].
pub(super) fn finish(
    edit: &mut Edit<'_>,
    number: EventNum,
    is_outlier: bool,
) -> Result<(), StoreError> {
    let event_id = edit.body(edit.room_num(), number)?.event_id;
    let all_notified = notify_wanting(edit, &event_id)?;
    let all_linked = is_outlier || link_followers(edit, number, &event_id)?;
    if !(all_notified && all_linked) {
        edit.put_unfinished(number);
    }
    Ok(())
}

/// Notes that the states of events which need a newly stored event may be known now. Returns
/// whether these are all such events.
fn notify_wanting(edit: &mut Edit<'_>, event_id: &str) -> Result<bool, StoreError> {
    let wanting = edit.wanted_by(edit.room_num(), event_id, MAX_NOTIFIED)?;
    for event in &wanting {
        edit.remove_wanted(event_id, *event);
        edit.put_unsettled(*event)?;
        if edit.room.current_state.is_none() {
            // The current state may be resolvable now: let it be tried again.
            edit.room.resolved_from.clear();
        }
    }
    Ok(wanting.len() < MAX_NOTIFIED)
}

/// Turns the gaps of events that reference a newly placed event into edges; their states then wait
/// for its state. Returns whether these are all such events.
fn link_followers(
    edit: &mut Edit<'_>,
    number: EventNum,
    event_id: &str,
) -> Result<bool, StoreError> {
    let followers = edit.followers_of_missing(edit.room_num(), event_id, MAX_NOTIFIED)?;
    for Follower { event: follower, index } in followers.iter().copied() {
        edit.remove_missing(event_id, follower);
        let mut node = edit.node(follower)?;
        if let Some(edge) = node.prev_events.get_mut(num::usize(index)) {
            *edge = PrevEvent::Held(number);
        }
        let is_state_known = node.state_after.is_some();
        edit.put_node(follower, node)?;
        extremities::followed_by(edit, number, follower)?;
        // If a state was given with the follower, the state before it may still become known.
        if !is_state_known || edit.given_state(edit.room_num(), follower)?.is_some() {
            edit.put_waiting(number, follower);
        }
    }
    Ok(followers.len() < MAX_NOTIFIED)
}

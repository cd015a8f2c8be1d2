//! One slice of a purge: takes events out of the graph.

use std::collections::BTreeSet;

use crate::{
    ingest::{redaction, state::with_before, stored::read_stored},
    pdu::{Event, RoomVersion},
    state::map::{self, Value},
    store::{Edit, EventNode, EventNum, Flags, GivenEvent, PrevEvent, StoreError, View},
};

/// The number of events that a slice took out of the graph.
#[derive(Default)]
pub(super) struct CutEvents {
    pub(super) removed: u64,
    pub(super) made_outliers: u64,
}

/// Takes events out of the graph, and cuts the edges of `followers` to them.
pub(super) fn cut(
    edit: &mut Edit<'_>,
    version: RoomVersion,
    events: &[EventNum],
    followers: &BTreeSet<EventNum>,
) -> Result<CutEvents, StoreError> {
    let mut gone = BTreeSet::new();
    for event in events {
        // Only events that are still placed in the graph are cut.
        if edit.find_node(*event)?.is_some_and(|it| !it.flags.outlier) {
            gone.insert(*event);
        }
    }
    for follower in followers.difference(&gone) {
        detach(edit, version, *follower, &gone)?;
    }
    let mut cut = CutEvents::default();
    for event in &gone {
        let node = edit.node(*event)?;
        let event_id = edit.body(edit.room_num(), *event)?.event_id;
        let read = read_stored(edit, *event, version)?;
        remove_notes(edit, *event, &node, &read)?;
        edit.room.rejected = edit.room.rejected.saturating_sub(node.flags.rejected.into());
        edit.room.soft_failed = edit.room.soft_failed.saturating_sub(node.flags.soft_failed.into());
        if read.state_entry().is_some() {
            edit.put_node(*event, outlier(&node))?;
            edit.remove_given_state(*event);
            edit.room.outliers += 1;
            cut.made_outliers += 1;
        } else {
            edit.purge_event(*event, &event_id)?;
            let unreadable = u64::from(node.flags.unreadable);
            edit.room.unreadable = edit.room.unreadable.saturating_sub(unreadable);
            cut.removed += 1;
        }
    }
    Ok(cut)
}

/// The node of a purged state event.
fn outlier(node: &EventNode) -> EventNode {
    EventNode {
        depth: node.depth,
        arrival: node.arrival,
        flags: Flags { outlier: true, purged: true, followed: false, ..node.flags },
        state_after: None,
        prev_events: Vec::new(),
    }
}

/// Cuts the edges of an event to purged events. It gets gaps there, and keeps its state as one that
/// was given with it.
fn detach(
    edit: &mut Edit<'_>,
    version: RoomVersion,
    follower: EventNum,
    gone: &BTreeSet<EventNum>,
) -> Result<(), StoreError> {
    let Some(mut node) = edit.find_node(follower)? else { return Ok(()) };
    let is_gone = |it: &PrevEvent| matches!(it, PrevEvent::Held(prev) if gone.contains(prev));
    if !node.prev_events.iter().any(is_gone) {
        return Ok(());
    }
    let read = read_stored(edit, follower, version)?;
    for ((position, edge), prev) in (0u32..).zip(&mut node.prev_events).zip(read.prev_events()) {
        if is_gone(edge) {
            *edge = PrevEvent::Missing;
            edit.put_missing(prev.as_str(), follower, position);
        }
    }
    if let Some(state) = node.state_after {
        if edit.given_state(edit.room_num(), follower)?.is_none() {
            let nodes = edit.states(edit.room_num());
            let entries = map::entries(&nodes, state.root(), None, usize::MAX)?;
            let events = entries.into_iter().filter_map(|(_, value)| match value {
                Value::Event { event, .. } => Some(EventNum(event)),
                Value::Server { .. } => None,
            });
            let (own, others): (Vec<_>, Vec<_>) = events.partition(|it| *it == follower);
            // The event itself is last, as in every given state.
            let given: Vec<_> = others.into_iter().chain(own).map(GivenEvent::Held).collect();
            edit.put_given_state(follower, &given);
        }
        // The state before the event is not known any more, as after a restore.
        if read.state_entry().is_some() {
            node.state_after = Some(with_before(edit, state, None)?);
        }
    }
    edit.put_node(follower, node)
}

/// Removes the notes about an event that other records hold.
fn remove_notes(
    edit: &mut Edit<'_>,
    event: EventNum,
    node: &EventNode,
    read: &Event,
) -> Result<(), StoreError> {
    edit.remove_unsettled(event);
    for follower in edit.waiting_for(edit.room_num(), event, usize::MAX)? {
        edit.remove_waiting(event, follower);
    }
    for edge in &node.prev_events {
        if let PrevEvent::Held(prev) = *edge {
            edit.remove_waiting(prev, event);
        }
    }
    for given in edit.given_state(edit.room_num(), event)?.unwrap_or_default() {
        if let GivenEvent::Named(named) = given {
            edit.remove_wanted(&named, event);
        }
    }
    for (edge, prev) in node.prev_events.iter().zip(read.prev_events()) {
        if *edge == PrevEvent::Missing && prev != read.event_id() {
            edit.remove_missing(prev.as_str(), event);
        }
    }
    if node.flags.rejected { Ok(()) } else { redaction::purge(edit, event, read) }
}

//! One slice of a purge.

use std::collections::BTreeSet;

use crate::{
    ingest::{held::read_held, redaction, state::with_before},
    pdu::{Event, RoomVersion},
    state::map::{self, Value},
    store::{Edit, EventNode, EventNum, Flags, GivenEvent, PrevEvent, StoreError, View},
};

/// Takes events out of the graph, and away from those that follow them. Says how many were
/// removed and how many made outliers.
pub(super) fn cut(
    edit: &mut Edit<'_>,
    version: RoomVersion,
    events: &[EventNum],
    followers: &BTreeSet<EventNum>,
) -> Result<(u64, u64), StoreError> {
    let mut gone = BTreeSet::new();
    for event in events {
        // Others may have been here since the purge was planned.
        if edit.find_node(*event)?.is_some_and(|it| !it.flags.outlier) {
            gone.insert(*event);
        }
    }
    for follower in followers.difference(&gone) {
        detach(edit, version, *follower, &gone)?;
    }
    let (mut removed, mut made_outliers) = (0, 0);
    for event in &gone {
        let node = edit.node(*event)?;
        let event_id = edit.body(edit.room_num(), *event)?.event_id;
        let read = read_held(edit, *event, version)?;
        forget_notes(edit, (*event, &node), &read)?;
        edit.room.rejected = edit.room.rejected.saturating_sub(node.flags.rejected.into());
        edit.room.soft_failed = edit.room.soft_failed.saturating_sub(node.flags.soft_failed.into());
        if read.state_entry().is_some() {
            edit.put_node(*event, outlier(&node))?;
            edit.remove_given_state(*event);
            edit.room.outliers += 1;
            made_outliers += 1;
        } else {
            edit.purge_event(*event, &event_id)?;
            let unreadable = u64::from(node.flags.unreadable);
            edit.room.unreadable = edit.room.unreadable.saturating_sub(unreadable);
            removed += 1;
        }
    }
    Ok((removed, made_outliers))
}

fn outlier(node: &EventNode) -> EventNode {
    EventNode {
        depth: node.depth,
        arrival: node.arrival,
        flags: Flags { outlier: true, purged: true, followed: false, ..node.flags },
        state_after: None,
        prev_events: Vec::new(),
    }
}

/// Takes an event away from what it follows: it has a gap there, and its state is one that came
/// with it.
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
    let read = read_held(edit, follower, version)?;
    for ((place, edge), prev) in (0u32..).zip(&mut node.prev_events).zip(read.prev_events()) {
        if is_gone(edge) {
            *edge = PrevEvent::Missing;
            edit.put_missing(prev.as_str(), follower, place);
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
            // The event itself stands last, as in a state that did come with it.
            let given: Vec<_> = others.into_iter().chain(own).map(GivenEvent::Held).collect();
            edit.put_given_state(follower, &given);
        }
        // Nothing is known of the state before it. So it is after a restore, too.
        if read.state_entry().is_some() {
            node.state_after = Some(with_before(edit, state, None)?);
        }
    }
    edit.put_node(follower, node)
}

/// Takes back what is noted of an event elsewhere.
fn forget_notes(
    edit: &mut Edit<'_>,
    (event, node): (EventNum, &EventNode),
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

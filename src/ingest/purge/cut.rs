//! One slice of a purge: takes events out of the graph.

use std::collections::BTreeSet;

use crate::{
    ingest::{
        redaction, redaction_again, replace,
        state::with_before,
        stored::{read_stored, version_of},
    },
    pdu::{Event, RoomVersion},
    state::map::{self, Value},
    store::{Edit, EventNode, EventNum, Flags, GivenEvent, PrevEvent, StoreError, View},
};

/// The number of events that a slice took out of the graph.
#[derive(Default)]
pub(in crate::ingest) struct CutEvents {
    pub(in crate::ingest) removed: u64,
    pub(in crate::ingest) made_outliers: u64,
}

/// What becomes of events that are taken out of the graph.
#[derive(Clone, Copy)]
pub(in crate::ingest) struct Cutting {
    /// Whether they may be appended again.
    pub(in crate::ingest) may_return: bool,
    /// Whether all of them become outliers, and not only state events.
    pub(in crate::ingest) keep_as_outliers: bool,
}

/// Takes events out of the graph, and cuts the edges of `followers` to them.
pub(in crate::ingest) fn cut(
    edit: &mut Edit<'_>,
    version: RoomVersion,
    events: &[EventNum],
    followers: &BTreeSet<EventNum>,
    cutting: Cutting,
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
        remove_notes(edit, *event, &node, &read, cutting)?;
        edit.room.rejected = edit.room.rejected.saturating_sub(node.flags.rejected.into());
        edit.room.soft_failed = edit.room.soft_failed.saturating_sub(node.flags.soft_failed.into());
        if cutting.may_return {
            redaction_again::leave_power(edit, *event)?;
            if node.flags.is_accepted() || node.flags.followed {
                replace::unfollow(edit, &node)?;
            }
        }
        if cutting.keeps(&node, &read) {
            edit.put_node(*event, outlier(&node, cutting))?;
            edit.remove_given_state(*event);
            edit.room.outliers += 1;
            cut.made_outliers += 1;
        } else {
            if cutting.may_return {
                redaction_again::forget_target(edit, &event_id)?;
                edit.remove_event(*event, &event_id)?;
            } else {
                edit.purge_event(*event, &event_id)?;
            }
            let unreadable = u64::from(node.flags.unreadable);
            edit.room.unreadable = edit.room.unreadable.saturating_sub(unreadable);
            cut.removed += 1;
        }
    }
    Ok(cut)
}

impl Cutting {
    /// Whether an event stays as an outlier.
    fn keeps(self, node: &EventNode, read: &Event) -> bool {
        // An unreadable event may be part of a given state though its type cannot be read.
        let may_be_in_states = self.may_return && node.flags.unreadable;
        self.keep_as_outliers || read.state_entry().is_some() || may_be_in_states
    }
}

/// Removes outliers that are no state events.
pub(in crate::ingest) fn remove_outliers(
    edit: &mut Edit<'_>,
    events: &[EventNum],
) -> Result<CutEvents, StoreError> {
    let version = version_of(edit)?;
    let mut cut = CutEvents::default();
    for event in events {
        let Some(node) = edit.find_node(*event)?.filter(|it| it.flags.outlier) else { continue };
        let read = read_stored(edit, *event, version)?;
        let cutting = Cutting { may_return: true, keep_as_outliers: false };
        if cutting.keeps(&node, &read) {
            continue;
        }
        let event_id = read.event_id().as_str();
        edit.remove_unsettled(*event);
        redaction_again::forget_target(edit, event_id)?;
        edit.remove_event(*event, event_id)?;
        edit.room.outliers = edit.room.outliers.saturating_sub(1);
        cut.removed += 1;
    }
    Ok(cut)
}

/// The node of an event that becomes an outlier.
fn outlier(node: &EventNode, cutting: Cutting) -> EventNode {
    EventNode {
        depth: node.depth,
        arrival: node.arrival,
        flags: Flags { outlier: true, purged: !cutting.may_return, followed: false, ..node.flags },
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
    cutting: Cutting,
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
    if node.flags.rejected {
        return Ok(());
    }
    redaction::purge(edit, event, read, cutting.may_return)
}

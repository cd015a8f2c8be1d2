//! The use case behind `RemoveEvents`: takes an exact set of events out of a room's graph.
//!
//! Unlike purged events, they leave no mark and may be appended again. Events that followed them have
//! gaps there and keep their states, as after a purge.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use super::{
    purge::{CutEvents, Cutting, Purge, SLICE, cut, remove_outliers},
    room_graph::RoomGraph,
    settle,
    stored::version_of,
};
use crate::store::{EventNum, RoomNum, Store, StoreError, View};

/// The most events that are removed at once.
pub const MAX_REMOVED: usize = 50_000;

/// Why no events were removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The store does not hold the room.
    #[error("room {0} is not held")]
    RoomUnknown(String),
    /// More events are named than may be removed at once.
    #[error("{0} events are named, at most {MAX_REMOVED} are removed at once")]
    TooMany(usize),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The events to remove.
#[derive(Clone, Copy, Debug)]
pub struct RemovedEvents<'a> {
    /// Their room.
    pub room_id: &'a str,
    /// Their ids. Ids that are not held are ignored.
    pub event_ids: &'a [String],
    /// Whether all of them become outliers. Otherwise only state events do, and all others are removed.
    pub keep_as_outliers: bool,
}

/// The progress of a removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoveProgress {
    /// Events removed so far.
    pub removed: u64,
    /// Events made outliers so far.
    pub made_outliers: u64,
    /// Whether all events were taken out of the graph.
    pub done: bool,
}

/// Takes events out of the graph. `watch` is called after each slice, which is then on disk, and may
/// stop the removal: the result then has `done: false`, and the same call continues it.
///
/// # Errors
/// [`RemoveError::RoomUnknown`] if the store does not hold the room, or if the room is deleted during
/// the removal. [`RemoveError::TooMany`] for more than [`MAX_REMOVED`] events.
pub fn remove_events(
    store: &Store,
    events: RemovedEvents<'_>,
    watch: &mut dyn FnMut(RemoveProgress) -> ControlFlow<()>,
) -> Result<RemoveProgress, RemoveError> {
    let RemovedEvents { room_id, event_ids, keep_as_outliers } = events;
    if event_ids.len() > MAX_REMOVED {
        return Err(RemoveError::TooMany(event_ids.len()));
    }
    let alone = &store.purge_alone(room_id)?;
    let unknown = || RemoveError::RoomUnknown(room_id.to_owned());
    let room = store.room_identity(room_id)?.ok_or_else(unknown)?;
    let mut removal = EventRemoval {
        purge: Purge { store, room: &room, alone },
        progress: RemoveProgress::default(),
        watch,
    };
    match removal.run(event_ids, keep_as_outliers) {
        // Purges wait for this removal, but a deletion does not.
        Err(_) if store.num_of(&room)?.is_none() => Err(unknown()),
        Err(failure) => Err(failure.at_rest().into()),
        Ok(Some(())) => Ok(removal.progress),
        Ok(None) => Err(unknown()),
    }
}

/// A removal of events from one room.
struct EventRemoval<'s, 'w> {
    purge: Purge<'s>,
    progress: RemoveProgress,
    watch: &'w mut dyn FnMut(RemoveProgress) -> ControlFlow<()>,
}

impl EventRemoval<'_, '_> {
    /// Removes events. Returns `None` if the room was deleted meanwhile.
    fn run(
        &mut self,
        event_ids: &[String],
        keep_as_outliers: bool,
    ) -> Result<Option<()>, StoreError> {
        let Purge { store, room, .. } = self.purge;
        let make = |number| RemovalPlan::make(store, number, event_ids);
        let Some(plan) = store.read_whole(room, make)? else { return Ok(None) };
        let cutting = Cutting { may_return: true, keep_as_outliers };
        for (index, events) in plan.placed.chunks(SLICE).enumerate() {
            let slice = self.purge.decide(|edit| {
                let version = version_of(edit)?;
                let mut followers = plan.followers.get(&index).cloned().unwrap_or_default();
                // Events that were stored since the plan was made, or whose gaps were closed.
                followers.extend((plan.next_event.0..edit.room.next_event.0).map(EventNum));
                followers.extend(&plan.gapped);
                let slice = cut(edit, version, events, &followers, cutting)?;
                settle::refresh_current_state(edit)?;
                Ok(slice)
            })?;
            let Some(slice) = slice else { return Ok(None) };
            if self.advance(&slice).is_break() {
                self.purge.settle()?;
                return Ok(Some(()));
            }
        }
        if !keep_as_outliers {
            for events in plan.outliers.chunks(SLICE) {
                let slice = self.purge.decide(|edit| remove_outliers(edit, events))?;
                let Some(slice) = slice else { return Ok(None) };
                if self.advance(&slice).is_break() {
                    return Ok(Some(()));
                }
            }
        }
        // A sweep reads all states of the room, which pays only if many may not be needed any more.
        if plan.placed.len() >= SLICE && self.purge.sweep()?.is_none() {
            return Ok(None);
        }
        self.purge.settle()?;
        self.progress.done = true;
        Ok(Some(()))
    }

    fn advance(&mut self, slice: &CutEvents) -> ControlFlow<()> {
        self.progress.removed += slice.removed;
        self.progress.made_outliers += slice.made_outliers;
        (self.watch)(self.progress)
    }
}

/// The events to remove, and the events that reference them.
struct RemovalPlan {
    /// The events that are placed in the graph, oldest first.
    placed: Vec<EventNum>,
    outliers: Vec<EventNum>,
    /// For each slice of `placed`, the events outside it that reference an event in it.
    followers: BTreeMap<usize, BTreeSet<EventNum>>,
    /// As in [`RoomGraph`].
    gapped: Vec<EventNum>,
    next_event: EventNum,
}

impl RemovalPlan {
    /// Plans the removal, in one pass over the room's nodes.
    fn make(store: &Store, room: RoomNum, event_ids: &[String]) -> Result<Self, StoreError> {
        let mut named = BTreeSet::new();
        for event_id in event_ids {
            named.extend(store.event_num(room, event_id)?);
        }
        let RoomGraph { outline, gapped, next_event } = RoomGraph::read(store, room)?;
        let order = outline.oldest_first();
        let is_named = |it: &u32| named.contains(&EventNum(*it));
        let placed: Vec<EventNum> = order.iter().copied().filter(is_named).map(EventNum).collect();
        let slices: BTreeMap<u32, usize> =
            placed.iter().enumerate().map(|(at, event)| (event.0, at / SLICE)).collect();
        let mut followers: BTreeMap<usize, BTreeSet<EventNum>> = BTreeMap::new();
        for follower in order {
            for prev in outline.prev_events(follower) {
                match slices.get(prev) {
                    Some(slice) if slices.get(&follower) != Some(slice) => {
                        followers.entry(*slice).or_default().insert(EventNum(follower));
                    }
                    _ => {}
                }
            }
        }
        let outliers = named.iter().copied().filter(|it| !outline.is_placed(it.0)).collect();
        Ok(Self { placed, outliers, followers, gapped, next_event })
    }
}

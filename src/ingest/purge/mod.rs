//! The use case behind `PurgeHistory`: removes the history before an event.
//!
//! The events [before it](crate::graph::Outline::before) leave the graph. Messages are removed; only
//! their ids stay, so that they are not stored again. State events stay as outliers, which are never
//! served nor walked through, because later states and the authorisation of later events consist of
//! them. Forward extremities stay. An event that followed a purged one has a gap there, a backward
//! extremity, and keeps its state as if that had been given with it. Of an event that a purged
//! redaction had hidden, only the redacted form stays.
//!
//! A purge is made in slices, oldest first. Each slice is one decision that leaves a consistent
//! graph, so a purge that is interrupted is partly done, and the same request continues it. States
//! that are not needed any more are removed at the end.

mod cut;
mod sweep;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use super::{settle, stored::version_of};
use crate::{
    graph::Outline,
    num,
    store::{Decision, Edit, EventNum, PrevEvent, RoomNum, Store, StoreError, View},
};

/// Events of a slice: bounds the memory of a decision, and the time for which writers of the room
/// wait.
const SLICE: usize = 1_000;

/// Why no history was purged.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// The store does not hold the room.
    #[error("room {0} is not held")]
    RoomUnknown(String),
    /// The room does not hold the event, or holds it as an outlier.
    #[error("event {0} is not held in this room, or is an outlier")]
    EventUnknown(String),
    /// The store failed during the purge.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The progress of a purge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgeProgress {
    /// Events that leave the graph in total.
    pub to_purge: u64,
    /// Events removed so far.
    pub removed: u64,
    /// State events made outliers so far.
    pub made_outliers: u64,
    /// Whether the purge is complete.
    pub done: bool,
}

/// Purges the history before an event; the event itself stays. `watch` is called after each slice,
/// which is then on disk, and may stop the purge: the result then has `done: false`.
///
/// # Errors
/// [`PurgeError::RoomUnknown`] if the store does not hold the room, or if the room is deleted during
/// the purge. [`PurgeError::EventUnknown`] if the event is not placed in the room's graph.
pub fn purge_history(
    store: &Store,
    room_id: &str,
    event_id: &str,
    watch: &mut dyn FnMut(PurgeProgress) -> ControlFlow<()>,
) -> Result<PurgeProgress, PurgeError> {
    let _alone = store.purge_alone();
    let number = store.room_num(room_id)?;
    let number = number.ok_or_else(|| PurgeError::RoomUnknown(room_id.to_owned()))?;
    let purge = Purge { store, room_id, number };
    match purge.run(event_id, watch) {
        // Other purges wait for this one, but a deletion does not.
        Err(_) if store.room_num(room_id)? != Some(number) => {
            Err(PurgeError::RoomUnknown(room_id.to_owned()))
        }
        Err(PurgeError::Store(failure)) => Err(failure.at_rest().into()),
        ended => ended,
    }
}

/// Removes the state records of a room that no state in use needs.
pub fn sweep_states(store: &Store, room_id: &str) -> Result<(), StoreError> {
    let _alone = store.purge_alone();
    let Some(number) = store.room_num(room_id)? else { return Ok(()) };
    let swept = Purge { store, room_id, number }.sweep();
    match swept {
        Ok(()) | Err(PurgeError::RoomUnknown(_) | PurgeError::EventUnknown(_)) => Ok(()),
        Err(PurgeError::Store(failure)) => Err(failure),
    }
}

/// A purge of one room.
struct Purge<'s> {
    store: &'s Store,
    room_id: &'s str,
    number: RoomNum,
}

impl Purge<'_> {
    fn run(
        &self,
        event_id: &str,
        watch: &mut dyn FnMut(PurgeProgress) -> ControlFlow<()>,
    ) -> Result<PurgeProgress, PurgeError> {
        let plan = Plan::make(self.store, self.number, event_id)?;
        let plan = plan.ok_or_else(|| PurgeError::EventUnknown(event_id.to_owned()))?;
        let mut progress =
            PurgeProgress { to_purge: num::u64(plan.events.len()), ..Default::default() };
        for (index, events) in plan.events.chunks(SLICE).enumerate() {
            let slice = self.decide(|edit| {
                let version = version_of(edit)?;
                let mut followers = plan.followers.get(&index).cloned().unwrap_or_default();
                // Events that were stored since the plan was made.
                followers.extend((plan.next_event.0..edit.room.next_event.0).map(EventNum));
                let slice = cut::cut(edit, version, events, &followers)?;
                settle::refresh_current_state(edit)?;
                Ok(slice)
            })?;
            progress.removed += slice.removed;
            progress.made_outliers += slice.made_outliers;
            if watch(progress).is_break() {
                return Ok(progress);
            }
        }
        self.sweep()?;
        progress.done = true;
        Ok(progress)
    }

    /// Makes one decision about the room; it is on disk when this returns.
    fn decide<T>(
        &self,
        mut decide: impl FnMut(&mut Edit<'_>) -> Result<T, StoreError>,
    ) -> Result<T, PurgeError> {
        let decided = self.store.decide(self.room_id, None, |edit| {
            // The room may have been deleted and created again since it had this number.
            if edit.room_num() != self.number {
                return Ok(Decision::Discard(None));
            }
            decide(edit).map(|it| Decision::Commit(Some(it)))
        })?;
        self.store.flush()?;
        decided.flatten().ok_or_else(|| PurgeError::RoomUnknown(self.room_id.to_owned()))
    }
}

/// The events to purge, and the events that reference them.
struct Plan {
    /// The events to purge, oldest first.
    events: Vec<EventNum>,
    /// For each slice, the events outside it that reference an event in it.
    followers: BTreeMap<usize, BTreeSet<EventNum>>,
    /// Events with this number and greater ones were stored after the plan was made.
    next_event: EventNum,
}

impl Plan {
    /// Plans the purge before an event; `None` if the event is not placed in the graph.
    fn make(store: &Store, room: RoomNum, event_id: &str) -> Result<Option<Self>, StoreError> {
        let Some(event) = store.event_num(room, event_id)? else { return Ok(None) };
        let record = store.room(room)?;
        let mut outline = Outline::default();
        let topology = store.topology(room);
        for event in 0..record.next_event.0 {
            let node = topology.node(EventNum(event))?.filter(|it| !it.flags.outlier);
            let edges = node.iter().flat_map(|it| &it.prev_events);
            let held = edges.filter_map(|it| match it {
                PrevEvent::Held(prev) => Some(prev.0),
                PrevEvent::Missing => None,
            });
            outline.push(node.as_ref().map(|it| it.depth), held);
        }
        if !outline.is_placed(event.0) {
            return Ok(None);
        }
        let extremities = store.extremities(room, usize::MAX)?;
        let keep = extremities.iter().map(|it| it.event.0).collect();
        let events = outline.before(event.0, &keep);
        let slices: BTreeMap<u32, usize> =
            events.iter().enumerate().map(|(at, event)| (*event, at / SLICE)).collect();
        let mut followers: BTreeMap<usize, BTreeSet<EventNum>> = BTreeMap::new();
        for follower in 0..record.next_event.0 {
            for prev in outline.prev_events(follower) {
                match slices.get(prev) {
                    Some(slice) if slices.get(&follower) != Some(slice) => {
                        followers.entry(*slice).or_default().insert(EventNum(follower));
                    }
                    _ => {}
                }
            }
        }
        let events = events.into_iter().map(EventNum).collect();
        Ok(Some(Self { events, followers, next_event: record.next_event }))
    }
}

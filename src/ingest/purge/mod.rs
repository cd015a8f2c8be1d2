//! The use case behind `PurgeHistory`: removes the history before an event.
//!
//! The events [before it](crate::graph::Outline::before) leave the graph. Messages are removed; only
//! their ids stay, so that they are not stored again, unless the caller lets them return. State events stay as outliers, which are never
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

pub(super) use cut::{CutEvents, Cutting, cut, remove_outliers};

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use super::{
    backlog::{NotesLeft, settle_waiting},
    derive_again,
    room_graph::RoomGraph,
    settle,
    stored::version_of,
};
use crate::{
    num,
    store::{Decision, Edit, EventNum, PurgeAlone, RoomIdentity, RoomNum, Store, StoreError, View},
};

/// Events of a slice: bounds the memory of a decision, and the time for which writers of the room
/// wait.
pub(super) const SLICE: usize = 1_000;

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

/// What to purge.
#[derive(Clone, Copy, Debug)]
pub struct PurgedHistory<'a> {
    /// The room.
    pub room_id: &'a str,
    /// The oldest event to keep.
    pub event_id: &'a str,
    /// Whether the purged events may be appended again.
    pub may_return: bool,
}

/// Purges the history before an event; the event itself stays. `watch` is called after each slice,
/// which is then on disk, and may stop the purge: the result then has `done: false`.
///
/// # Errors
/// [`PurgeError::RoomUnknown`] if the store does not hold the room, or if the room is deleted during
/// the purge. [`PurgeError::EventUnknown`] if the event is not placed in the room's graph.
pub fn purge_history(
    store: &Store,
    PurgedHistory { room_id, event_id, may_return }: PurgedHistory<'_>,
    watch: &mut dyn FnMut(PurgeProgress) -> ControlFlow<()>,
) -> Result<PurgeProgress, PurgeError> {
    let alone = &store.purge_alone(room_id)?;
    let room = store.room_identity(room_id)?;
    let room = room.ok_or_else(|| PurgeError::RoomUnknown(room_id.to_owned()))?;
    let purge = Purge { store, room: &room, alone };
    let cutting = Cutting { may_return, keep_as_outliers: false };
    match purge.run(event_id, cutting, watch) {
        // Other purges wait for this one, but a deletion does not.
        Err(_) if store.num_of(&room)?.is_none() => {
            Err(PurgeError::RoomUnknown(room_id.to_owned()))
        }
        Err(PurgeError::Store(failure)) => Err(failure.at_rest().into()),
        ended => ended,
    }
}

/// Removes the state records of a room that no state in use needs.
pub fn sweep_states(store: &Store, room_id: &str) -> Result<(), StoreError> {
    let alone = &store.purge_alone(room_id)?;
    let Some(room) = store.room_identity(room_id)? else { return Ok(()) };
    Purge { store, room: &room, alone }.sweep()?;
    Ok(())
}

/// A purge of one room.
#[derive(Clone, Copy)]
pub(super) struct Purge<'s> {
    pub(super) store: &'s Store,
    pub(super) room: &'s RoomIdentity,
    pub(super) alone: &'s PurgeAlone<'s>,
}

impl Purge<'_> {
    fn run(
        &self,
        event_id: &str,
        cutting: Cutting,
        watch: &mut dyn FnMut(PurgeProgress) -> ControlFlow<()>,
    ) -> Result<PurgeProgress, PurgeError> {
        let deleted = || PurgeError::RoomUnknown(self.room.room_id().to_owned());
        let make = |number| Plan::make(self.store, number, event_id);
        let plan = self.store.read_whole(self.room, make)?.ok_or_else(deleted)?;
        let plan = plan.ok_or_else(|| PurgeError::EventUnknown(event_id.to_owned()))?;
        let mut progress =
            PurgeProgress { to_purge: num::u64(plan.events.len()), ..Default::default() };
        for (index, events) in plan.events.chunks(SLICE).enumerate() {
            let slice = self.decide(|edit| {
                let version = version_of(edit)?;
                let mut followers = plan.followers.get(&index).cloned().unwrap_or_default();
                // Events that were stored since the plan was made.
                followers.extend((plan.next_event.0..edit.room.next_event.0).map(EventNum));
                let slice = cut(edit, version, events, &followers, cutting)?;
                settle::refresh_current_state(edit)?;
                Ok(slice)
            })?;
            let slice = slice.ok_or_else(deleted)?;
            progress.removed += slice.removed;
            progress.made_outliers += slice.made_outliers;
            if watch(progress).is_break() {
                self.settle()?;
                return Ok(progress);
            }
        }
        self.sweep()?.ok_or_else(deleted)?;
        self.settle()?;
        progress.done = true;
        Ok(progress)
    }

    /// Makes one decision about the room; it is on disk when this returns. If states of the room are to
    /// be derived again, that is done first: events that lose predecessors keep their states. Returns
    /// `None` if the room was deleted.
    pub(super) fn decide<T>(
        &self,
        mut decide: impl FnMut(&mut Edit<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        loop {
            self.derive_again()?;
            self.alone.prolong(self.room.room_id())?;
            let decided = self.store.decide(self.room.room_id(), None, |edit| {
                // The room may have been deleted and created again.
                if !edit.is_of(self.room) {
                    return Ok::<_, StoreError>(Decision::Discard(SliceDecided::Deleted));
                }
                if derive_again::is_frozen(edit)? {
                    return Ok(Decision::Discard(SliceDecided::Frozen));
                }
                decide(edit).map(|it| Decision::Commit(SliceDecided::Done(it)))
            })?;
            match decided {
                None | Some(SliceDecided::Deleted) => return Ok(None),
                Some(SliceDecided::Frozen) => {}
                Some(SliceDecided::Done(value)) => {
                    self.store.flush()?;
                    return Ok(Some(value));
                }
            }
        }
    }

    /// Does all work that is noted in the room, so that it is served again.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        settle_waiting(self.store, self.room.room_id())
    }

    /// Derives again everything that is noted in the room.
    fn derive_again(&self) -> Result<(), StoreError> {
        while derive_again::turn(self.store, self.room.room_id())? == NotesLeft::Some {}
        Ok(())
    }
}

/// The result of a decision.
enum SliceDecided<T> {
    Done(T),
    /// States of the room are to be derived again first.
    Frozen,
    /// The room was deleted.
    Deleted,
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
        let RoomGraph { outline, next_event, .. } = RoomGraph::read(store, room)?;
        if !outline.is_placed(event.0) {
            return Ok(None);
        }
        let extremities = store.extremities(room, usize::MAX)?;
        let keep = extremities.iter().map(|it| it.event.0).collect();
        let events = outline.before(event.0, &keep);
        let slices: BTreeMap<u32, usize> =
            events.iter().enumerate().map(|(at, event)| (*event, at / SLICE)).collect();
        let mut followers: BTreeMap<usize, BTreeSet<EventNum>> = BTreeMap::new();
        for follower in 0..next_event.0 {
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
        Ok(Some(Self { events, followers, next_event }))
    }
}

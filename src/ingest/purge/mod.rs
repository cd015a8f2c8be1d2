//! Forgetting what came before an event.
//!
//! What [lies before it](crate::graph::Outline::before) leaves the graph. Its messages are removed
//! and only their ids remain, so that none of them comes back; its state events stay as outliers
//! (never served, never walked), since the states after it and the authorisation of what follows
//! are made of them. Forward extremities stay. What followed something that is purged has a gap
//! there, a backward extremity, and keeps its state as if that had come with it. What a purged
//! redaction had hidden is kept in its redacted form only.
//!
//! It is done in slices, oldest first. Each is one atomic batch that leaves a sound graph, so a
//! purge that is cut off has gone a part of the way, and asking again goes on. States that nothing
//! needs any more are removed at the end.

mod cut;
mod sweep;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use super::{held::version_of, settle};
use crate::{
    graph::Outline,
    store::{Edit, EventNum, PrevEvent, RoomNum, Store, StoreError, View},
};

/// Events of a slice: bounds what is held in memory, and for how long writers of the room wait.
const SLICE: usize = 1_000;

/// Why nothing was purged.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// No such room.
    #[error("room {0} is not held")]
    RoomUnknown(String),
    /// No such event in the room, or it is not placed in the graph.
    #[error("event {0} is not held in this room, or is an outlier")]
    EventUnknown(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How far a purge has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgeProgress {
    /// Events that leave the graph, all in all.
    pub to_purge: u64,
    /// Events removed so far.
    pub removed: u64,
    /// State events made outliers so far.
    pub made_outliers: u64,
    /// Whether all is done.
    pub done: bool,
}

/// Purges what lies before an event; the event stays. After each slice, `watch` is told how far it
/// has come, and may end it.
///
/// # Errors
/// When there is no such event, or the store fails.
pub fn purge_history(
    store: &Store,
    room_id: &str,
    event_id: &str,
    watch: &mut dyn FnMut(PurgeProgress) -> ControlFlow<()>,
) -> Result<PurgeProgress, PurgeError> {
    let _alone = store.purge_alone();
    let room = store.room_num(room_id)?;
    let room = room.ok_or_else(|| PurgeError::RoomUnknown(room_id.to_owned()))?;
    match purge(store, (room_id, room), event_id, watch) {
        // Of all that may remove something meanwhile, only a deletion does not wait for us.
        Err(_) if store.room_num(room_id)? != Some(room) => {
            Err(PurgeError::RoomUnknown(room_id.to_owned()))
        }
        Err(PurgeError::Store(failure)) => Err(failure.at_rest().into()),
        ended => ended,
    }
}

/// Holds a room still; nothing if it was deleted since it had that number.
fn hold<'s>(
    store: &'s Store,
    room_id: &str,
    number: RoomNum,
) -> Result<Option<Edit<'s>>, StoreError> {
    Ok(store.edit(room_id, None)?.filter(|it| it.room_num() == number))
}

fn purge(
    store: &Store,
    (room_id, room): (&str, RoomNum),
    event_id: &str,
    watch: &mut dyn FnMut(PurgeProgress) -> ControlFlow<()>,
) -> Result<PurgeProgress, PurgeError> {
    let room_unknown = || PurgeError::RoomUnknown(room_id.to_owned());
    let plan = Plan::make(store, room, event_id)?;
    let plan = plan.ok_or_else(|| PurgeError::EventUnknown(event_id.to_owned()))?;
    let mut progress =
        PurgeProgress { to_purge: count(plan.events.len()), ..PurgeProgress::default() };
    for (number, events) in plan.events.chunks(SLICE).enumerate() {
        let mut edit = hold(store, room_id, room)?.ok_or_else(room_unknown)?;
        let version = version_of(&edit)?;
        let mut followers = plan.followers.get(&number).cloned().unwrap_or_default();
        followers.extend((plan.next_event.0..edit.room.next_event.0).map(EventNum));
        let (removed, made_outliers) = cut::cut(&mut edit, version, events, &followers)?;
        settle::refresh_current_state(&mut edit)?;
        edit.commit()?;
        store.flush()?;
        progress.removed += removed;
        progress.made_outliers += made_outliers;
        if watch(progress).is_break() {
            return Ok(progress);
        }
    }
    if !sweep::sweep(store, room_id, room)? {
        return Err(room_unknown());
    }
    progress.done = true;
    Ok(progress)
}

/// Removes a room's states that nothing needs any more.
///
/// # Errors
/// When the store fails.
pub fn sweep_states(store: &Store, room_id: &str) -> Result<(), StoreError> {
    let _alone = store.purge_alone();
    let Some(room) = store.room_num(room_id)? else { return Ok(()) };
    sweep::sweep(store, room_id, room).map(drop)
}

/// What is to be purged, and who will notice.
struct Plan {
    /// Oldest first.
    events: Vec<EventNum>,
    /// For each slice, the events outside it that reference one of it.
    followers: BTreeMap<usize, BTreeSet<EventNum>>,
    /// Events from here on came later.
    next_event: EventNum,
}

impl Plan {
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

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

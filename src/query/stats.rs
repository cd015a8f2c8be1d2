//! The whole store in figures. For operators.

use super::{QueryError, unknown::state_needed};
use crate::{
    context::Context,
    metrics::Sizes,
    slowest::SlowWalk,
    store::{Durability, Room, RoomNum, StoreError},
};

/// Most rooms that are looked at, and most notes that are counted.
const MAX_ROOMS: u64 = 1_000_000;
const MAX_NOTES: usize = 1_000_000;
/// Rooms read at once.
const PAGE: usize = 500;
/// Widest rooms that are named.
const WIDEST: usize = 10;
/// Rooms of unknown state that are named.
const UNKNOWN: usize = 10;

/// The whole store in figures.
#[derive(Clone, Debug)]
pub struct Stats {
    /// What makes the store's writes durable.
    pub durability: Durability,
    /// Sizes.
    pub sizes: Sizes,
    /// The rooms with most forward extremities, the widest first; only those with more than one.
    pub widest_rooms: Vec<WideRoom>,
    /// The slowest walks since the start, the slowest first.
    pub slowest_walks: Vec<SlowWalk>,
    /// Some of the rooms whose current state is not known.
    pub unknown_rooms: Vec<UnknownRoom>,
}

/// A room whose current state is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownRoom {
    /// The room.
    pub room_id: String,
    /// Whether who may ask is decided by what was known last; if nothing ever was, nobody may.
    pub is_answered: bool,
    /// Some of the events whose state has to come.
    pub state_needed: Vec<String>,
}

/// A room with many ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WideRoom {
    /// The room.
    pub room_id: String,
    /// How many events nothing accepted follows.
    pub forward_extremities: u64,
    /// Events held.
    pub events: u64,
}

/// Sums up: every room's record is read, nothing else of it. Of more than a million rooms, or of a
/// million of anything that is counted, the rest is left out.
///
/// # Errors
/// When the store fails.
pub fn stats(cx: &Context) -> Result<Stats, QueryError> {
    let store = &cx.store;
    let mut stats = Stats {
        durability: store.durability(),
        sizes: Sizes::default(),
        widest_rooms: Vec::new(),
        slowest_walks: cx.slowest.all(),
        unknown_rooms: Vec::new(),
    };
    let mut after = None;
    while stats.sizes.rooms < MAX_ROOMS {
        let rooms = store.rooms(after, PAGE)?;
        let Some((last, _)) = rooms.last() else { break };
        after = Some(*last);
        for (number, room) in &rooms {
            stats.add(room);
            if room.current_state.is_none() && stats.unknown_rooms.len() < UNKNOWN {
                stats.unknown_rooms.extend(unknown(cx, *number, room)?);
            }
        }
    }
    let sizes = &mut stats.sizes;
    sizes.gaps = store.count_gaps(MAX_NOTES)?;
    sizes.waiting = store.count_waiting(MAX_NOTES)?;
    sizes.store_bytes = store.bytes()?;
    sizes.free_bytes = store.free_bytes()?;
    Ok(stats)
}

/// Whether a room has a current state that is not known; one of outliers alone has none.
fn is_unknown(room: &Room) -> bool {
    room.current_state.is_none() && room.forward_extremities > 0
}

fn unknown(cx: &Context, number: RoomNum, room: &Room) -> Result<Option<UnknownRoom>, StoreError> {
    if !is_unknown(room) {
        return Ok(None);
    }
    let state_needed = match state_needed(&cx.store, number, room) {
        // Purged or deleted meanwhile.
        Err(failure) if failure.is_of_record() => return Ok(None),
        other => other?,
    };
    let (room_id, is_answered) = (room.room_id.clone(), !room.last_known.is_empty());
    Ok(Some(UnknownRoom { room_id, is_answered, state_needed }))
}

impl Stats {
    fn add(&mut self, room: &Room) {
        let ends = room.forward_extremities;
        let events = u64::from(room.next_event.0).saturating_sub(room.purged);
        self.sizes.rooms += 1;
        self.sizes.events += events;
        self.sizes.forward_extremities += ends;
        self.sizes.unreadable += room.unreadable;
        self.sizes.state_unknown += u64::from(is_unknown(room));
        self.sizes.widest = self.sizes.widest.max(ends);
        let widest = &mut self.widest_rooms;
        let place = widest.partition_point(|it| it.forward_extremities >= ends);
        if ends > 1 && place < WIDEST {
            let room_id = room.room_id.clone();
            widest.insert(place, WideRoom { room_id, forward_extremities: ends, events });
            widest.truncate(WIDEST);
        }
    }
}

//! Figures about the whole store, for operators.

use super::{QueryError, state_needed::state_needed};
use crate::{
    context::Context,
    slow_walks::SlowWalk,
    store::{Durability, Room, RoomNum, StoreError},
};

/// The most rooms that are looked at.
const MAX_ROOMS: u64 = 1_000_000;
/// The most gaps, and the most waiting events, that are counted.
const MAX_COUNTED: usize = 1_000_000;
/// Room records that are read at once.
const ROOMS_AT_ONCE: usize = 500;
/// The most rooms with many forward extremities that are named.
const MAX_WIDE_ROOMS: usize = 10;
/// The most rooms of unknown state that are named.
const MAX_UNKNOWN_ROOMS: usize = 10;

/// Figures about the whole store.
#[derive(Clone, Debug)]
pub struct Stats {
    /// How the store makes its writes durable.
    pub durability: Durability,
    /// The sizes of the store and of its contents.
    pub sizes: Sizes,
    /// The rooms with the most forward extremities, in descending order. Rooms with only one are
    /// left out.
    pub widest_rooms: Vec<WideRoom>,
    /// The slowest walks since the start, slowest first.
    pub slow_walks: Vec<SlowWalk>,
    /// Some of the rooms whose current state is not known.
    pub unknown_rooms: Vec<UnknownRoom>,
}

/// The sizes of the whole store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// The number of rooms.
    pub rooms: u64,
    /// The number of events that are held, outliers included.
    pub events: u64,
    /// The number of forward extremities of all rooms.
    pub forward_extremities: u64,
    /// The number of forward extremities of the room that has the most.
    pub widest: u64,
    /// The number of references to events that are not in the graph.
    pub gaps: u64,
    /// The number of events whose state waits for the state of another event.
    pub waiting: u64,
    /// The number of unreadable events.
    pub unreadable: u64,
    /// The number of rooms whose current state is not known.
    pub state_unknown: u64,
    /// The number of redacted events whose content is still on disk.
    pub content_due: u64,
    /// When the service first saw that the oldest of them is redacted, in milliseconds since 1970;
    /// `None` if it has seen none.
    pub oldest_content_ms: Option<u64>,
    /// The number of rooms that are not served to other servers, held or not.
    pub not_served: u64,
    /// The bytes that the store takes on disk.
    pub store_bytes: u64,
    /// The bytes that are free on the volume of the store.
    pub free_bytes: u64,
}

/// A room whose current state is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownRoom {
    /// The id of the room.
    pub room_id: String,
    /// Whether other servers are answered, by the states that were known last. If no state was
    /// ever known, all are refused.
    pub is_answered: bool,
    /// Some of the events whose state is needed.
    pub state_needed: Vec<String>,
}

/// A room with many forward extremities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WideRoom {
    /// The id of the room.
    pub room_id: String,
    /// The number of events that no accepted event follows.
    pub forward_extremities: u64,
    /// The number of events.
    pub events: u64,
}

/// Computes the figures. Reads the record of every room, up to a million rooms; gaps, waiting events
/// and events with redacted content are counted up to a million.
///
/// # Errors
/// The store failed.
pub fn stats(cx: &Context) -> Result<Stats, QueryError> {
    let store = &cx.store;
    let mut stats = Stats {
        durability: store.durability(),
        sizes: Sizes::default(),
        widest_rooms: Vec::new(),
        slow_walks: cx.slow_walks.all(),
        unknown_rooms: Vec::new(),
    };
    let mut after = None;
    while stats.sizes.rooms < MAX_ROOMS {
        let rooms = store.rooms(after, ROOMS_AT_ONCE)?;
        let Some((last, _)) = rooms.last() else { break };
        after = Some(*last);
        for (number, room) in &rooms {
            stats.add(room);
            if is_state_unknown(room) && stats.unknown_rooms.len() < MAX_UNKNOWN_ROOMS {
                stats.unknown_rooms.extend(unknown_room(cx, *number, room)?);
            }
        }
    }
    let sizes = &mut stats.sizes;
    sizes.gaps = store.count_gaps(MAX_COUNTED)?;
    sizes.waiting = store.count_waiting(MAX_COUNTED)?;
    let content = store.count_content_due(MAX_COUNTED)?;
    (sizes.content_due, sizes.oldest_content_ms) = (content.events, content.oldest_ms);
    sizes.not_served = store.count_rooms_not_served().iter().sum();
    sizes.store_bytes = store.bytes()?;
    sizes.free_bytes = store.free_bytes()?;
    Ok(stats)
}

/// Whether a room has a current state that is not known. A room of outliers alone has no state.
fn is_state_unknown(room: &Room) -> bool {
    room.current_state.is_none() && room.forward_extremities > 0
}

/// Describes a room of unknown state; `None` if it was purged or deleted meanwhile.
fn unknown_room(
    cx: &Context,
    number: RoomNum,
    room: &Room,
) -> Result<Option<UnknownRoom>, StoreError> {
    let state_needed = match state_needed(&cx.store, number, room) {
        Err(failure) if failure.is_of_record() => return Ok(None),
        needed => needed?,
    };
    Ok(Some(UnknownRoom {
        room_id: room.room_id.clone(),
        is_answered: !room.last_known.is_empty(),
        state_needed,
    }))
}

impl Stats {
    fn add(&mut self, room: &Room) {
        let forward_extremities = room.forward_extremities;
        let events = u64::from(room.next_event.0).saturating_sub(room.purged);
        self.sizes.rooms += 1;
        self.sizes.events += events;
        self.sizes.forward_extremities += forward_extremities;
        self.sizes.unreadable += room.unreadable;
        self.sizes.state_unknown += u64::from(is_state_unknown(room));
        self.sizes.widest = self.sizes.widest.max(forward_extremities);
        let widest = &mut self.widest_rooms;
        let rank = widest.partition_point(|it| it.forward_extremities >= forward_extremities);
        if forward_extremities > 1 && rank < MAX_WIDE_ROOMS {
            let room_id = room.room_id.clone();
            widest.insert(rank, WideRoom { room_id, forward_extremities, events });
            widest.truncate(MAX_WIDE_ROOMS);
        }
    }
}

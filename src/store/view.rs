//! Reading, in domain words: what is on disk, or what is on disk with the changes of an
//! [`Edit`](super::Edit) laid over it.
//!
//! All methods fail if the engine fails, with an error of [`StoreError::Corrupt`] if a record is
//! damaged, and with [`StoreError::Missing`] if a record does not exist though another names it.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use super::{
    Arrival, Body, EventNum, Extremity, Follower, GivenEvent, Remains, Room, RoomNum, StateFacts,
    StateNum, StoreError, Unsettled,
    codec::{Malformed, strip_checksum},
    engine::{Records, StoredValue},
    keys,
    nodes::{StateNodes, Topology},
    record,
    record::Page,
};
use crate::state::map::{Node, Ptr};

/// A page of ids of purged events, as hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PurgedIds {
    /// The hashes, in ascending order: half of the SHA-256 of each id.
    pub hashes: Vec<[u8; 16]>,
    /// The hash after which the next page starts; `None` if this page is the last.
    pub next: Option<[u8; 16]>,
}

/// What the id of a room maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundNum {
    /// Nothing: the room is not held.
    None,
    /// The room was deleted and may not return.
    Deleted,
    /// The number of the room.
    Held(RoomNum),
}

impl FoundNum {
    /// What the record of a room id, with its checksum, says.
    ///
    /// # Errors
    /// When the record is damaged.
    pub(super) fn of(key: &[u8], value: Option<&[u8]>) -> Result<Self, StoreError> {
        let Some(value) = value else { return Ok(Self::None) };
        let number = strip_checksum(key, value).and_then(number_or_gone);
        match number.map_err(|Malformed| StoreError::corrupt("room number", key))? {
            None => Ok(Self::Deleted),
            Some(number) => Ok(Self::Held(RoomNum(number))),
        }
    }
}

/// A store, or a store with the changes of an edit laid over it.
pub trait View {
    /// The value of a key, with its checksum; `None` if there is no such record.
    fn value(&self, key: &[u8]) -> Result<Option<StoredValue>, StoreError>;

    /// The values of several keys, in the order of `keys`, with their checksums. An engine behind a
    /// network reads them in one round trip.
    fn values(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<StoredValue>>, StoreError>;

    /// The records whose keys begin with `prefix` and are greater than `after`, in the order of
    /// their keys, at most `limit`.
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError>;

    /// Whether records can be read ahead.
    fn reads_ahead(&self) -> bool;

    /// Whether reading a record, or finding that there is none, takes no round trip.
    fn is_in_memory(&self, key: &[u8]) -> bool;

    /// Records are about to be read.
    fn expect_records(&self, keys: Vec<Vec<u8>>) -> Result<(), StoreError>;

    /// Pages of nodes are about to be read: `last`, and those before it, `count` in all.
    fn expect_pages(&self, room: RoomNum, last: u32, count: u32) -> Result<(), StoreError> {
        let first = last.saturating_sub(count.saturating_sub(1));
        self.expect_records((first..=last).map(|it| keys::page(room, it)).collect())
    }

    /// Reads and decodes a record; `None` if it does not exist. `what` names the kind of record in
    /// an error.
    #[expect(private_bounds, reason = "how a value is laid out stays inside the store")]
    fn read<T>(
        &self,
        what: &'static str,
        key: &[u8],
        decode: impl FnOnce(&[u8]) -> Result<T, Malformed>,
    ) -> Result<Option<T>, StoreError> {
        let Some(value) = self.value(key)? else { return Ok(None) };
        let decoded = strip_checksum(key, &value).and_then(decode);
        decoded.map(Some).map_err(|Malformed| StoreError::corrupt(what, key))
    }

    /// The number of a room; `None` if the room is not held.
    fn room_num(&self, room_id: &str) -> Result<Option<RoomNum>, StoreError> {
        let read = self.read("room number", &keys::room_by_name(room_id), number_or_gone)?;
        Ok(read.flatten().map(RoomNum))
    }

    /// Whether a room was deleted and may not return.
    fn is_deleted(&self, room_id: &str) -> Result<bool, StoreError> {
        Ok(matches!(self.find_room_num(room_id)?, FoundNum::Deleted))
    }

    /// What the id of a room maps to.
    fn find_room_num(&self, room_id: &str) -> Result<FoundNum, StoreError> {
        let key = keys::room_by_name(room_id);
        FoundNum::of(&key, self.value(&key)?.as_deref())
    }

    /// The record of a room that has a number.
    fn room(&self, room: RoomNum) -> Result<Room, StoreError> {
        let key = keys::room(room);
        self.read("room", &key, Room::decode)?.ok_or_else(|| StoreError::missing("room", &key))
    }

    /// The number of an event in a room; `None` if the event is not held there.
    fn event_num(&self, room: RoomNum, event_id: &str) -> Result<Option<EventNum>, StoreError> {
        let read = self.read("event number", &keys::event(room, event_id), number_or_gone)?;
        Ok(read.flatten().map(EventNum))
    }

    /// Whether an event was purged, so that only its id is left, and may not return.
    fn is_purged(&self, room: RoomNum, event_id: &str) -> Result<bool, StoreError> {
        let read = self.read("event number", &keys::event(room, event_id), number_or_gone)?;
        Ok(read == Some(None))
    }

    /// The ids of events that were purged, those made outliers included, with hashes greater than
    /// `after`, at most `limit`. Looks at `looked_at` ids at most, purged or not.
    fn purged_events(
        &self,
        room: RoomNum,
        after: Option<[u8; 16]>,
        limit: usize,
        looked_at: usize,
    ) -> Result<PurgedIds, StoreError>
    where
        Self: Sized,
    {
        let after = after.map(|it| keys::event_by_hash(room, it));
        let records = self.scan(&keys::events(room), after.as_deref(), looked_at)?;
        let mut found = PurgedIds::default();
        let topology = self.topology(room);
        for (key, value) in &records {
            let damaged = || StoreError::corrupt("event number", key);
            let hash = keys::hash_of(key).ok_or_else(damaged)?;
            let number = strip_checksum(key, value).and_then(number_or_gone);
            let is_purged = match number.map_err(|_| damaged())? {
                None => true,
                Some(event) => topology.node(EventNum(event))?.is_some_and(|it| it.flags.purged),
            };
            if is_purged {
                found.hashes.push(hash);
            }
            if found.hashes.len() >= limit {
                found.next = Some(hash);
                return Ok(found);
            }
        }
        if records.len() >= looked_at {
            found.next = records.last().and_then(|(key, _)| keys::hash_of(key));
        }
        Ok(found)
    }

    /// The body of an event that is held.
    fn body(&self, room: RoomNum, event: EventNum) -> Result<Body, StoreError>;

    /// A page of nodes; empty if it has no record.
    #[expect(private_interfaces, reason = "how a page is laid out stays inside the store")]
    fn page(&self, room: RoomNum, page: u32) -> Result<Page, StoreError> {
        let read = self.read("page", &keys::page(room, page), |it| Page::decode(page, it));
        read.map(Option::unwrap_or_default)
    }

    /// The nodes of a room's event graph.
    fn topology(&self, room: RoomNum) -> Topology<'_, Self>
    where
        Self: Sized,
    {
        Topology { view: self, room, pages: RefCell::default(), window: Cell::default() }
    }

    /// The nodes of a room's states.
    fn states(&self, room: RoomNum) -> StateNodes<'_, Self>
    where
        Self: Sized,
    {
        StateNodes { view: self, room }
    }

    /// A node of a state.
    fn state_node(&self, room: RoomNum, at: Ptr) -> Result<Arc<Node>, StoreError> {
        let key = keys::state(room, StateNum(at.record));
        let node = self.read("state", &key, |it| record::decode_state_node(it, at.slot))?;
        node.map(Arc::new).ok_or_else(|| StoreError::missing("state", &key))
    }

    /// The nodes that the record of a state holds; it shares all others with older states.
    fn state_record(&self, room: RoomNum, state: StateNum) -> Result<Vec<Node>, StoreError> {
        let key = keys::state(room, state);
        let nodes = self.read("state", &key, record::decode_state_nodes)?;
        nodes.ok_or_else(|| StoreError::missing("state", &key))
    }

    /// The facts about a state.
    fn state_facts(&self, room: RoomNum, state: StateNum) -> Result<StateFacts, StoreError> {
        let key = keys::state(room, state);
        let facts = self.read("state", &key, record::decode_state_facts)?;
        facts.ok_or_else(|| StoreError::missing("state", &key))
    }

    /// The numbers of a room's states greater than `after`, in ascending order, at most `limit`.
    fn state_nums(
        &self,
        room: RoomNum,
        after: Option<StateNum>,
        limit: usize,
    ) -> Result<Vec<StateNum>, StoreError> {
        let after = after.map(|it| keys::state(room, it));
        let records = self.scan(&keys::states(room), after.as_deref(), limit)?;
        Ok(records.iter().filter_map(|(key, _)| keys::last_number(key)).map(StateNum).collect())
    }

    /// The state that was received with an event; `None` if there was none.
    fn given_state(
        &self,
        room: RoomNum,
        event: EventNum,
    ) -> Result<Option<Vec<GivenEvent>>, StoreError> {
        self.read("given state", &keys::given_state(room, event), record::decode_given)
    }

    /// What stays of an event whose content was removed; `None` if nothing does, or if the content
    /// was not removed.
    fn remains(&self, room: RoomNum, event: EventNum) -> Result<Option<Remains>, StoreError> {
        self.read("remains", &keys::remains(room, event), Remains::decode)
    }

    /// The events that have an event which is not placed among their predecessors, at most `limit`.
    fn followers_of_missing(
        &self,
        room: RoomNum,
        event_id: &str,
        limit: usize,
    ) -> Result<Vec<Follower>, StoreError> {
        let records = self.scan(&keys::missing(room, event_id), None, limit)?;
        let follower = |(key, value): &(Vec<u8>, StoredValue)| {
            let missing = strip_checksum(key, value).and_then(record::decode_missing).ok()?;
            Some(Follower { event: EventNum(keys::last_number(key)?), index: missing.index })
        };
        records
            .iter()
            .map(|it| follower(it).ok_or_else(|| StoreError::corrupt("missing event", &it.0)))
            .collect()
    }

    /// The index, among the predecessors of `follower`, of an event that is not placed; `None` if
    /// no such reference is noted.
    fn index_of_missing(
        &self,
        room: RoomNum,
        event_id: &str,
        follower: EventNum,
    ) -> Result<Option<u32>, StoreError> {
        let key = keys::missing_of(room, event_id, follower);
        Ok(self.read("missing event", &key, record::decode_missing)?.map(|it| it.index))
    }

    /// The ids of predecessors in a room that are not placed, each once, at most `limit`.
    fn backward_extremities(&self, room: RoomNum, limit: usize) -> Result<Vec<String>, StoreError> {
        let mut found: Vec<String> = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        while found.len() < limit {
            let records = self.scan(&keys::all_missing(room), after.as_deref(), 256)?;
            for (key, value) in &records {
                let missing = strip_checksum(key, value)
                    .and_then(record::decode_missing)
                    .map_err(|Malformed| StoreError::corrupt("missing event", key))?;
                if found.last() != Some(&missing.event_id) {
                    found.push(missing.event_id);
                }
            }
            match records.into_iter().next_back() {
                Some((key, _)) => after = Some(key),
                None => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The events whose state waits for that of `event`, at most `limit`.
    fn waiting_for(
        &self,
        room: RoomNum,
        event: EventNum,
        limit: usize,
    ) -> Result<Vec<EventNum>, StoreError> {
        self.last_numbers(&keys::waiting(room, event), limit)
    }

    /// The events whose given state names an event that is not held, at most `limit`.
    fn wanted_by(
        &self,
        room: RoomNum,
        event_id: &str,
        limit: usize,
    ) -> Result<Vec<EventNum>, StoreError> {
        self.last_numbers(&keys::wanted(room, event_id), limit)
    }

    /// The events of a room for which work is left, at most `limit`.
    fn unsettled(&self, room: RoomNum, limit: usize) -> Result<Vec<Unsettled>, StoreError> {
        let records = self.scan(&keys::unsettled_in(room), None, limit)?;
        let note = |(key, value): &(Vec<u8>, StoredValue)| {
            let event = EventNum(keys::last_number(key)?);
            let is_unfinished =
                strip_checksum(key, value).and_then(record::decode_unsettled).ok()?;
            Some(Unsettled { event, is_unfinished })
        };
        records
            .iter()
            .map(|it| note(it).ok_or_else(|| StoreError::corrupt("unsettled event", &it.0)))
            .collect()
    }

    /// Whether work is left for an event.
    fn is_unsettled(&self, room: RoomNum, event: EventNum) -> Result<bool, StoreError> {
        Ok(self.value(&keys::unsettled(room, event))?.is_some())
    }

    /// The forward extremities of a room, the one that arrived last first, at most `limit`.
    fn extremities(&self, room: RoomNum, limit: usize) -> Result<Vec<Extremity>, StoreError> {
        let records = self.scan(&keys::extremities(room), None, limit)?;
        let extremity = |(key, value): &(Vec<u8>, StoredValue)| {
            let Arrival { arrival, event } = keys::extremity_of(key)?;
            let state_after = strip_checksum(key, value).and_then(record::decode_extremity).ok()?;
            Some(Extremity { event, arrival, state_after })
        };
        records
            .iter()
            .map(|it| extremity(it).ok_or_else(|| StoreError::corrupt("forward extremity", &it.0)))
            .collect()
    }

    /// The events of a room after `after`, in their order of arrival, at most `limit`. `record` is
    /// the room's record.
    fn by_arrival(
        &self,
        room: RoomNum,
        record: &Room,
        after: Option<Arrival>,
        limit: usize,
    ) -> Result<Vec<Arrival>, StoreError>
    where
        Self: Sized,
    {
        let last = after.map(|it| keys::arrival(room, it.arrival, it.event));
        let listed = self.scan(&keys::arrivals(room), last.as_deref(), limit)?;
        let mut found: Vec<Arrival> =
            listed.iter().filter_map(|(key, _)| keys::arrival_of(key)).collect();
        let all_listed =
            record.listed_arrivals.saturating_add(record.purged) >= u64::from(record.next_event.0);
        if !all_listed {
            found.extend(self.arrived_as_numbered(room, record, after, limit)?);
            found.sort_unstable();
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The events after `after` whose arrival is their number, and which are therefore not listed,
    /// at most `limit`.
    fn arrived_as_numbered(
        &self,
        room: RoomNum,
        record: &Room,
        after: Option<Arrival>,
        limit: usize,
    ) -> Result<Vec<Arrival>, StoreError>
    where
        Self: Sized,
    {
        let from = after.map_or(0, |Arrival { arrival, event }| {
            if arrival > i64::from(event.0) { arrival } else { arrival.saturating_add(1) }
        });
        // Event numbers are below u32::MAX, so that the range is empty if `from` is greater.
        let from = u32::try_from(from.max(0)).unwrap_or(u32::MAX);
        let topology = self.topology(room);
        let mut found = Vec::new();
        for event in (from..record.next_event.0).map(EventNum) {
            if found.len() >= limit {
                break;
            }
            let arrival = i64::from(event.0);
            if topology.node(event)?.is_some_and(|it| it.arrival == arrival) {
                found.push(Arrival { arrival, event });
            }
        }
        Ok(found)
    }

    /// The event numbers at the end of the keys that begin with `prefix`, at most `limit`.
    fn last_numbers(&self, prefix: &[u8], limit: usize) -> Result<Vec<EventNum>, StoreError> {
        let records = self.scan(prefix, None, limit)?;
        Ok(records.iter().filter_map(|(key, _)| keys::last_number(key)).map(EventNum).collect())
    }
}

/// Decodes the number of a room or event; `None` if the id is kept without a number, because it was
/// deleted or purged.
pub(super) fn number_or_gone(bytes: &[u8]) -> Result<Option<u32>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    bytes.try_into().map(|it| Some(u32::from_be_bytes(it))).map_err(|_| Malformed)
}

//! Reading, in domain words: what is on disk, or what is on disk with an [`Edit`](super::Edit)'s
//! changes laid over it.

use std::{cell::RefCell, sync::Arc};

use sled::IVec;

use super::{
    Body, EventNum, Extremity, GivenEvent, Room, RoomNum, StateFacts, StateNum, StoreError,
    Unsettled,
    codec::{Malformed, unseal},
    keys,
    nodes::{StateNodes, Topology},
    record,
    record::Page,
};
use crate::state::map::{Node, Ptr};

/// Keys and sealed values, in order.
pub(super) type Records = Vec<(Vec<u8>, IVec)>;

/// What can be read from.
pub trait View {
    /// A sealed value.
    ///
    /// # Errors
    /// When the disk fails.
    fn value(&self, key: &[u8]) -> Result<Option<IVec>, StoreError>;

    /// At most `limit` records whose keys begin with `prefix` and lie behind `after`, in order.
    ///
    /// # Errors
    /// When the disk fails.
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError>;

    /// Reads a value.
    ///
    /// # Errors
    /// When the disk fails, or the value is damaged.
    #[expect(private_bounds, reason = "how a value is laid out stays inside the store")]
    fn read<T>(
        &self,
        what: &'static str,
        key: &[u8],
        decode: impl FnOnce(&[u8]) -> Result<T, Malformed>,
    ) -> Result<Option<T>, StoreError> {
        let Some(value) = self.value(key)? else { return Ok(None) };
        let decoded = unseal(key, &value).and_then(decode);
        decoded.map(Some).map_err(|Malformed| StoreError::corrupt(what, key))
    }

    /// The number of a room; nothing if it is not held.
    ///
    /// # Errors
    /// When it cannot be read.
    fn room_num(&self, room_id: &str) -> Result<Option<RoomNum>, StoreError> {
        let read = self.read("room number", &keys::room_by_name(room_id), number_or_gone)?;
        Ok(read.flatten().map(RoomNum))
    }

    /// Whether a room was deleted, never to come back.
    ///
    /// # Errors
    /// When that cannot be read.
    fn is_deleted(&self, room_id: &str) -> Result<bool, StoreError> {
        let read = self.read("room number", &keys::room_by_name(room_id), number_or_gone)?;
        Ok(read == Some(None))
    }

    /// The record of a room that has a number.
    ///
    /// # Errors
    /// When it cannot be read.
    fn room(&self, room: RoomNum) -> Result<Room, StoreError> {
        let key = keys::room(room);
        self.read("room", &key, Room::decode)?.ok_or_else(|| StoreError::missing("room", &key))
    }

    /// The number of an event in a room; nothing if it is not held there.
    ///
    /// # Errors
    /// When it cannot be read.
    fn event_num(&self, room: RoomNum, event_id: &str) -> Result<Option<EventNum>, StoreError> {
        let read = self.read("event number", &keys::event(room, event_id), number_or_gone)?;
        Ok(read.flatten().map(EventNum))
    }

    /// Whether an event was purged without a trace but its id, never to come back.
    ///
    /// # Errors
    /// When that cannot be read.
    fn is_purged(&self, room: RoomNum, event_id: &str) -> Result<bool, StoreError> {
        let read = self.read("event number", &keys::event(room, event_id), number_or_gone)?;
        Ok(read == Some(None))
    }

    /// The hashes of ids of events that were purged, those that are outliers since then included,
    /// behind `after` in their own order: at most so many, of at most so many looked at. And where
    /// to go on, if there may be more.
    ///
    /// # Errors
    /// When they cannot be read.
    #[expect(clippy::type_complexity, reason = "a page and where it ends")]
    fn purged_events(
        &self,
        room: RoomNum,
        after: Option<[u8; 16]>,
        (at_most, looked_at): (usize, usize),
    ) -> Result<(Vec<[u8; 16]>, Option<[u8; 16]>), StoreError>
    where
        Self: Sized,
    {
        let after = after.map(|it| keys::event_by_hash(room, it));
        let records = self.scan(&keys::events(room), after.as_deref(), looked_at)?;
        let (mut found, topology) = (Vec::new(), self.topology(room));
        for (key, value) in &records {
            let damaged = || StoreError::corrupt("event number", key);
            let hash = keys::hash_of(key).ok_or_else(damaged)?;
            let number = unseal(key, value).and_then(number_or_gone).map_err(|_| damaged())?;
            let purged = match number {
                None => true,
                Some(event) => topology.node(EventNum(event))?.is_some_and(|it| it.flags.purged),
            };
            if purged {
                found.push(hash);
            }
            if found.len() >= at_most {
                return Ok((found, Some(hash)));
            }
        }
        let last = records.last().filter(|_| records.len() >= looked_at);
        let last = last.and_then(|(key, _)| keys::hash_of(key));
        Ok((found, last))
    }

    /// An event's body.
    ///
    /// # Errors
    /// When it cannot be read.
    fn body(&self, room: RoomNum, event: EventNum) -> Result<Body, StoreError>;

    /// A page of topology.
    ///
    /// # Errors
    /// When it cannot be read.
    #[expect(private_interfaces, reason = "how a page is laid out stays inside the store")]
    fn page(&self, room: RoomNum, page: u32) -> Result<Page, StoreError> {
        let read = self.read("page", &keys::page(room, page), |it| Page::decode(page, it));
        read.map(Option::unwrap_or_default)
    }

    /// The nodes of a room's graph.
    fn topology(&self, room: RoomNum) -> Topology<'_, Self>
    where
        Self: Sized,
    {
        Topology { view: self, room, pages: RefCell::default() }
    }

    /// The nodes of a room's states.
    fn states(&self, room: RoomNum) -> StateNodes<'_, Self>
    where
        Self: Sized,
    {
        StateNodes { view: self, room }
    }

    /// A node of a state.
    ///
    /// # Errors
    /// When it cannot be read.
    fn state_node(&self, room: RoomNum, at: Ptr) -> Result<Arc<Node>, StoreError> {
        let key = keys::state(room, StateNum(at.record));
        let node = self.read("state", &key, |it| record::decode_state_node(it, at.slot))?;
        node.map(Arc::new).ok_or_else(|| StoreError::missing("state", &key))
    }

    /// All nodes that a state has of its own.
    ///
    /// # Errors
    /// When they cannot be read.
    fn state_record(&self, room: RoomNum, state: StateNum) -> Result<Vec<Node>, StoreError> {
        let key = keys::state(room, state);
        let nodes = self.read("state", &key, record::decode_state_nodes)?;
        nodes.ok_or_else(|| StoreError::missing("state", &key))
    }

    /// The facts about a state.
    ///
    /// # Errors
    /// When they cannot be read.
    fn state_facts(&self, room: RoomNum, state: StateNum) -> Result<StateFacts, StoreError> {
        let key = keys::state(room, state);
        let facts = self.read("state", &key, record::decode_state_facts)?;
        facts.ok_or_else(|| StoreError::missing("state", &key))
    }

    /// The numbers of a room's states behind `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
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

    /// The state that came with an event, if any did.
    ///
    /// # Errors
    /// When it cannot be read.
    fn given_state(
        &self,
        room: RoomNum,
        event: EventNum,
    ) -> Result<Option<Vec<GivenEvent>>, StoreError> {
        self.read("given state", &keys::given_state(room, event), record::decode_given)
    }

    /// Events that reference an event which is not placed, each with the place of the reference
    /// among its predecessors: at most `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn followers_of_missing(
        &self,
        room: RoomNum,
        event_id: &str,
        limit: usize,
    ) -> Result<Vec<(EventNum, u32)>, StoreError> {
        let records = self.scan(&keys::missing(room, event_id), None, limit)?;
        let follower = |(key, value): &(Vec<u8>, IVec)| {
            let (place, _) = unseal(key, value).and_then(record::decode_missing).ok()?;
            Some((EventNum(keys::last_number(key)?), place))
        };
        records
            .iter()
            .map(|it| follower(it).ok_or_else(|| StoreError::corrupt("missing event", &it.0)))
            .collect()
    }

    /// Which of its predecessors `follower` is noted to reference by an id that is not placed; none
    /// if that is not noted.
    ///
    /// # Errors
    /// When it cannot be read.
    fn place_of_missing(
        &self,
        room: RoomNum,
        event_id: &str,
        follower: EventNum,
    ) -> Result<Option<u32>, StoreError> {
        let key = keys::missing_of(room, event_id, follower);
        Ok(self.read("missing event", &key, record::decode_missing)?.map(|(place, _)| place))
    }

    /// The ids that are referenced in a room but not placed, each once, at most `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn backward_extremities(&self, room: RoomNum, limit: usize) -> Result<Vec<String>, StoreError> {
        let mut found: Vec<String> = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        while found.len() < limit {
            let records = self.scan(&keys::all_missing(room), after.as_deref(), 256)?;
            for (key, value) in &records {
                let (_, event_id) = unseal(key, value)
                    .and_then(record::decode_missing)
                    .map_err(|Malformed| StoreError::corrupt("missing event", key))?;
                if found.last() != Some(&event_id) {
                    found.push(event_id);
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

    /// Events whose state waits for that of another, at most `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn waiting_for(
        &self,
        room: RoomNum,
        event: EventNum,
        limit: usize,
    ) -> Result<Vec<EventNum>, StoreError> {
        self.last_numbers(&keys::waiting(room, event), limit)
    }

    /// Events whose state needs an event that was not held, at most `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn wanted_by(
        &self,
        room: RoomNum,
        event_id: &str,
        limit: usize,
    ) -> Result<Vec<EventNum>, StoreError> {
        self.last_numbers(&keys::wanted(room, event_id), limit)
    }

    /// Events of a room for which work is left, at most `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn unsettled(&self, room: RoomNum, limit: usize) -> Result<Vec<Unsettled>, StoreError> {
        let records = self.scan(&keys::unsettled_in(room), None, limit)?;
        let note = |(key, value): &(Vec<u8>, IVec)| {
            let event = EventNum(keys::last_number(key)?);
            let is_unfinished = unseal(key, value).and_then(record::decode_unsettled).ok()?;
            Some(Unsettled { event, is_unfinished })
        };
        records
            .iter()
            .map(|it| note(it).ok_or_else(|| StoreError::corrupt("work left", &it.0)))
            .collect()
    }

    /// Whether work is left for an event.
    ///
    /// # Errors
    /// When the disk fails.
    fn is_unsettled(&self, room: RoomNum, event: EventNum) -> Result<bool, StoreError> {
        Ok(self.value(&keys::unsettled(room, event))?.is_some())
    }

    /// Forward extremities, the one that arrived last first, at most `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn extremities(&self, room: RoomNum, limit: usize) -> Result<Vec<Extremity>, StoreError> {
        let records = self.scan(&keys::extremities(room), None, limit)?;
        let extremity = |(key, value): &(Vec<u8>, IVec)| {
            let (arrival, event) = keys::extremity_of(key)?;
            let state_after = unseal(key, value).and_then(record::decode_extremity).ok()?;
            Some(Extremity { event, arrival, state_after })
        };
        records
            .iter()
            .map(|it| extremity(it).ok_or_else(|| StoreError::corrupt("forward extremity", &it.0)))
            .collect()
    }

    /// Events in their order of arrival, those that arrived together by number, behind `after`,
    /// at most `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn by_arrival(
        &self,
        room: (RoomNum, &Room),
        after: Option<(i64, EventNum)>,
        limit: usize,
    ) -> Result<Vec<(i64, EventNum)>, StoreError>
    where
        Self: Sized,
    {
        let (number, room) = room;
        let last = after.map(|(arrival, event)| keys::arrival(number, arrival, event));
        let listed = self.scan(&keys::arrivals(number), last.as_deref(), limit)?;
        let mut found: Vec<(i64, EventNum)> =
            listed.iter().filter_map(|(key, _)| keys::arrival_of(key)).collect();
        // The others arrived as they are numbered.
        let topology = self.topology(number);
        let all_listed =
            room.listed_arrivals.saturating_add(room.purged) >= u64::from(room.next_event.0);
        let from = after.map_or(0, |(arrival, event)| {
            if arrival > i64::from(event.0) { arrival } else { arrival.saturating_add(1) }
        });
        let from = u32::try_from(from.max(0)).unwrap_or(u32::MAX);
        let mut others = 0;
        for event in (from..room.next_event.0).map(EventNum) {
            if others >= limit || all_listed {
                break;
            }
            let arrival = i64::from(event.0);
            if topology.node(event)?.is_some_and(|it| it.arrival == arrival) {
                found.push((arrival, event));
                others += 1;
            }
        }
        found.sort_unstable();
        found.truncate(limit);
        Ok(found)
    }

    /// The event numbers at the end of the keys with a prefix.
    ///
    /// # Errors
    /// When they cannot be read.
    fn last_numbers(&self, prefix: &[u8], limit: usize) -> Result<Vec<EventNum>, StoreError> {
        let records = self.scan(prefix, None, limit)?;
        Ok(records.iter().filter_map(|(key, _)| keys::last_number(key)).map(EventNum).collect())
    }
}

/// A number, or what is left of one that was taken back for good: no bytes at all.
pub(super) fn number_or_gone(bytes: &[u8]) -> Result<Option<u32>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    bytes.try_into().map(|it| Some(u32::from_be_bytes(it))).map_err(|_| Malformed)
}

//! Versions of the layout. A store of an older format is brought up to this build's when it is
//! opened: one function a step, and each step one atomic batch.

use super::{
    EventNum, FetchedKeys, Judgement, Power, Room, RoomNum, Store, StoreError, View,
    codec::{self, Malformed},
    engine::Changes,
    keys,
    record::{self, Room2},
    view::number_or_gone,
};
use crate::state::map::{self, Key, Value};

/// The layout that this build reads and writes.
pub(super) const FORMAT: u32 = 4;

impl Store {
    /// Reads the store's format, brings an older one up to ours, and refuses a newer one.
    pub(super) fn check_format(&self) -> Result<(), StoreError> {
        let Some(mut format) = self.read("format", &keys::format(), number)? else {
            return self.put_format(FORMAT, Changes::new());
        };
        while format < FORMAT {
            let changes = match format {
                1 => self.step_1_to_2()?,
                2 => self.step_2_to_3()?,
                3 => self.step_3_to_4()?,
                _ => return Err(StoreError::corrupt("format", &keys::format())),
            };
            format += 1;
            self.put_format(format, changes)?;
            tracing::info!(format, "the store was brought up to a newer format");
        }
        match format {
            FORMAT => Ok(()),
            found => Err(StoreError::NewerFormat { found, known: FORMAT }),
        }
    }

    fn put_format(&self, format: u32, mut changes: Changes) -> Result<(), StoreError> {
        let value = codec::add_checksum(&keys::format(), format.to_be_bytes().to_vec());
        changes.insert(keys::format(), Some(value.into()));
        self.engine.put(changes)?;
        self.flush()
    }

    /// Rooms got a count of what was purged; nothing was, before.
    fn step_1_to_2(&self) -> Result<Changes, StoreError> {
        let mut changes = Changes::new();
        for (key, room) in self.rooms_2(Room2::decode_1)? {
            let value = codec::add_checksum(&key, room.encode_2());
            changes.insert(key, Some(value.into()));
        }
        Ok(changes)
    }

    /// Pages are sealed into blocks from then on; bodies that are alone are read as ever. The mark
    /// moved.
    fn step_2_to_3(&self) -> Result<Changes, StoreError> {
        let mut changes = Changes::new();
        if let Some(count) = self.read("mark", &keys::mark_2(), |it| Ok(it.to_vec()))? {
            changes.insert(keys::mark(), Some(codec::add_checksum(&keys::mark(), count).into()));
            changes.insert(keys::mark_2(), None);
        }
        Ok(changes)
    }

    /// Rooms got a count of unreadable events, of which there were none, and the states that decide
    /// while the current one is not known: of a room where it is not known now, nothing tells which
    /// they were. Forward extremities got records of their own. Keys of servers got the time of
    /// their fetch; of those that were there, nobody knows it.
    fn step_3_to_4(&self) -> Result<Changes, StoreError> {
        let mut changes = Changes::new();
        for (key, Room2 { room, extremities }) in self.rooms_2(Room2::decode_2)? {
            let damaged = || StoreError::corrupt("room", &key);
            let number = keys::room_of(&key).ok_or_else(damaged)?;
            let topology = self.topology(number);
            for event in extremities {
                let Some(node) = topology.node(event)? else { continue };
                let key = keys::extremity(number, node.arrival, event);
                let value = codec::add_checksum(&key, record::encode_extremity(node.state_after));
                changes.insert(key, Some(value.into()));
            }
            self.note_powers(number, &room, &mut changes)?;
            let value = codec::add_checksum(&key, room.encode());
            changes.insert(key, Some(value.into()));
        }
        self.judge_redactions(&mut changes)?;
        for (key, _) in self.scan(&keys::all_server_keys(), None, usize::MAX)? {
            let answer = self.read("server keys", &key, |bytes| Ok(bytes.to_vec()))?;
            let fetched = FetchedKeys { fetched_ts: 0, answer: answer.unwrap_or_default() };
            let value = codec::add_checksum(&key, fetched.encode());
            changes.insert(key, Some(value.into()));
        }
        Ok(changes)
    }

    /// The power levels of a room's current state are the last that arrived. Of others nothing is
    /// known, so a redaction that arrived before them is judged by the state at it alone.
    fn note_powers(
        &self,
        number: RoomNum,
        room: &Room,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let Some(current) = room.current_state else { return Ok(()) };
        let key = Key::of_state("m.room.power_levels", "");
        let value = map::get(&self.states(number), current.root(), key)?;
        let Some(Value::Event { event, .. }) = value else { return Ok(()) };
        let node = self.topology(number).node(EventNum(event))?;
        if let Some(node) = node.filter(|it| it.flags.is_accepted()) {
            let key = keys::power(number, node.arrival, EventNum(event));
            let value = codec::add_checksum(&key, record::encode_power(Power::default()));
            changes.insert(key, Some(value.into()));
        }
        Ok(())
    }

    /// Redactions got a judgement. Those whose sender lacked the power as they came keep theirs,
    /// which nothing tells any more; all others are judged again.
    fn judge_redactions(&self, changes: &mut Changes) -> Result<(), StoreError> {
        for (key, value) in self.scan(&keys::redactions_3(), None, usize::MAX)? {
            let damaged = || StoreError::corrupt("redaction", &key);
            let was_powerless = codec::strip_checksum(&key, &value).map_err(|_| damaged())? == [1];
            let judgement = if was_powerless { Judgement::Unheeded } else { Judgement::Unseen };
            let moved = keys::of_redaction_3(&key, judgement.number());
            let (redaction, target) = moved.ok_or_else(damaged)?;
            let room = keys::room_of(&key).ok_or_else(damaged)?;
            let target = self.read("event number", &target, number_or_gone)?.flatten();
            if let Some(target) = target.filter(|_| !was_powerless) {
                let key = keys::unsettled(room, EventNum(target));
                let value = codec::add_checksum(&key, record::encode_unsettled(true));
                changes.insert(key, Some(value.into()));
            }
            let value = codec::add_checksum(&redaction, Vec::new());
            changes.insert(redaction, Some(value.into()));
            changes.insert(key, None);
        }
        Ok(())
    }

    /// Every room's record, in the layout of an older format.
    fn rooms_2(
        &self,
        decode: fn(&[u8]) -> Result<Room2, Malformed>,
    ) -> Result<Vec<(Vec<u8>, Room2)>, StoreError> {
        let mut rooms = Vec::new();
        for (key, _) in self.scan(&keys::rooms(), None, usize::MAX)? {
            let room = self.read("room", &key, decode)?;
            rooms.extend(room.map(|it| (key, it)));
        }
        Ok(rooms)
    }
}

fn number(bytes: &[u8]) -> Result<u32, Malformed> {
    bytes.try_into().map(u32::from_be_bytes).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;

    #[test]
    fn keys_of_format_3_get_the_time_of_their_fetch() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::small(dir.path());
        let store = Store::open(&options).unwrap();
        let key = keys::server_keys("a.example");
        let mut old = Changes::new();
        let value = codec::add_checksum(&key, b"{}".to_vec());
        old.insert(key.clone(), Some(value.into()));
        store.put_format(3, old).unwrap();
        drop(store);
        let store = Store::open(&options).unwrap();
        let fetched = FetchedKeys { fetched_ts: 0, answer: b"{}".to_vec() };
        assert_eq!(store.server_keys("a.example").unwrap(), Some(fetched));
    }
}

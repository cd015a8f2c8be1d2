//! Versions of the layout. A store of an older format is converted to that of this build when it is
//! opened. Each step is one function and one atomic batch.

use super::{
    EventNum, FetchedKeys, Judgement, Power, Room, RoomNum, Store, StoreError, View,
    codec::{self, Malformed},
    engine::Changes,
    keys,
    record::{self, Room2},
    view::number_or_gone,
};
use crate::state::map::{self, MapKey, Value};

/// The format that this build reads and writes.
pub(super) const FORMAT: u32 = 5;

impl Store {
    /// Reads the store's format, converts an older one, and refuses a newer one.
    pub(super) fn check_format(&self) -> Result<(), StoreError> {
        let Some(mut format) = self.read("format", &keys::format(), number)? else {
            return self.put_format(FORMAT, Changes::new());
        };
        while format < FORMAT {
            let changes = match format {
                1 => self.step_1_to_2()?,
                2 => self.step_2_to_3()?,
                3 => self.step_3_to_4()?,
                // Format 5 added kinds of records. An older build would not know of rooms that are
                // not served, of bans that redact, or of states that are to be derived again.
                4 => Changes::new(),
                _ => return Err(StoreError::corrupt("format", &keys::format())),
            };
            format += 1;
            self.put_format(format, changes)?;
            tracing::info!(format, "the store was converted to a newer format");
        }
        match format {
            FORMAT => Ok(()),
            found => Err(StoreError::NewerFormat { found, known: FORMAT }),
        }
    }

    /// Writes the format, with the changes of a step, and flushes.
    fn put_format(&self, format: u32, mut changes: Changes) -> Result<(), StoreError> {
        let value = codec::add_checksum(&keys::format(), format.to_be_bytes().to_vec());
        changes.insert(keys::format(), Some(value.into()));
        self.engine.put(changes)?;
        self.flush()
    }

    /// Format 2 added a count of purged events to rooms; before, no event could be purged.
    fn step_1_to_2(&self) -> Result<Changes, StoreError> {
        let mut changes = Changes::new();
        for (key, room) in self.rooms_2(Room2::decode_1)? {
            let value = codec::add_checksum(&key, room.encode_2());
            changes.insert(key, Some(value.into()));
        }
        Ok(changes)
    }

    /// Format 3 packs the bodies of full pages into blocks; bodies in records of their own are read
    /// as before. It moved the mark.
    fn step_2_to_3(&self) -> Result<Changes, StoreError> {
        let mut changes = Changes::new();
        if let Some(count) = self.read("mark", &keys::mark_2(), |it| Ok(it.to_vec()))? {
            changes.insert(keys::mark(), Some(codec::add_checksum(&keys::mark(), count).into()));
            changes.insert(keys::mark_2(), None);
        }
        Ok(changes)
    }

    /// Format 4 added to rooms a count of unreadable events, of which there were none, and the states
    /// that decide while the current state is not known; they are left empty, since they cannot be
    /// found out. It gave forward extremities records of their own. It added the time of the fetch
    /// to server keys; for older keys it is unknown.
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

    /// Notes the power levels event of a room's current state, which arrived last. Older ones are
    /// not known, so a redaction that arrived before it is judged by the state before it alone.
    fn note_powers(
        &self,
        number: RoomNum,
        room: &Room,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        let Some(current) = room.current_state else { return Ok(()) };
        let key = MapKey::of_state("m.room.power_levels", "");
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

    /// Gives redactions a judgement. A redaction that was refused for lack of power stays refused,
    /// since the reason cannot be found out again; all others are judged again.
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

    /// The keys and records of all rooms, decoded from an older format.
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
    fn server_keys_of_format_3_get_an_unknown_time_of_fetch() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::small(dir.path());
        let store = Store::open(&options).unwrap();
        let key = keys::server_keys("a.example");
        let mut old = Changes::new();
        let value = codec::add_checksum(&key, b"{}".to_vec());
        old.insert(key, Some(value.into()));
        store.put_format(3, old).unwrap();
        drop(store);
        let store = Store::open(&options).unwrap();
        let fetched = FetchedKeys { fetched_ts: 0, answer: b"{}".to_vec() };
        assert_eq!(store.server_keys("a.example").unwrap(), Some(fetched));
    }
}

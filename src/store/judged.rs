//! Reading what is noted about redactions, and about the power levels that they are judged by.

use super::{
    Arrival, EventNum, Judgement, Power, RoomNum, StoreError, StoredValue, View,
    codec::strip_checksum, keys, record,
};

/// A power levels event that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerEvent {
    /// The power levels event.
    pub event: EventNum,
    /// What is noted about it.
    pub power: Power,
}

/// What is noted about redactions and power levels.
pub trait Judged: View {
    /// Whether any redaction of an event is noted.
    fn has_redactions(&self, room: RoomNum, target_id: &str) -> Result<bool, StoreError> {
        Ok(!self.scan(&keys::all_redactions(room, target_id), None, 1)?.is_empty())
    }

    /// The redactions of an event that have a given judgement, at most `limit`.
    fn redactions_of(
        &self,
        room: RoomNum,
        target_id: &str,
        judgement: Judgement,
        limit: usize,
    ) -> Result<Vec<EventNum>, StoreError> {
        self.last_numbers(&keys::redactions(room, target_id, judgement.number()), limit)
    }

    /// The judgement of a redaction of an event; `None` if the redaction is not noted.
    fn judgement(
        &self,
        room: RoomNum,
        target_id: &str,
        redaction: EventNum,
    ) -> Result<Option<Judgement>, StoreError> {
        let key = |it: Judgement| keys::redaction(room, target_id, it.number(), redaction);
        let values = self.values(&Judgement::ALL.map(key))?;
        let mut judged = Judgement::ALL.into_iter().zip(values);
        Ok(judged.find_map(|(judgement, value)| value.map(|_| judgement)))
    }

    /// The power levels events that arrived before `arrival`, the last first, at most `limit`.
    fn powers_before(
        &self,
        room: RoomNum,
        arrival: i64,
        limit: usize,
    ) -> Result<Vec<PowerEvent>, StoreError> {
        let after = keys::power(room, arrival, EventNum(u32::MAX));
        let records = self.scan(&keys::powers(room), Some(&after), limit)?;
        let power = |(key, value): &(Vec<u8>, StoredValue)| {
            let event = keys::extremity_of(key)?.event;
            let power = strip_checksum(key, value).and_then(record::decode_power).ok()?;
            Some(PowerEvent { event, power })
        };
        records
            .iter()
            .map(|it| power(it).ok_or_else(|| StoreError::corrupt("power levels", &it.0)))
            .collect()
    }

    /// What is noted about a power levels event; `None` if it was not accepted.
    fn power(
        &self,
        room: RoomNum,
        arrival: i64,
        event: EventNum,
    ) -> Result<Option<Power>, StoreError> {
        self.read("power levels", &keys::power(room, arrival, event), record::decode_power)
    }

    /// The redactions that arrived after `after`, in their order of arrival, at most `limit`.
    fn redactions_after(
        &self,
        room: RoomNum,
        after: Arrival,
        limit: usize,
    ) -> Result<Vec<Arrival>, StoreError> {
        let after = keys::later_redaction(room, after.arrival, after.event);
        let records = self.scan(&keys::later_redactions(room), Some(&after), limit)?;
        Ok(records.iter().filter_map(|(key, _)| keys::arrival_of(key)).collect())
    }
}

impl<V: View> Judged for V {}

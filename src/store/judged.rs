//! Reading what is noted of redactions, and of the power levels that judge them.

use sled::IVec;

use super::{EventNum, Judgement, Power, RoomNum, StoreError, View, codec::unseal, keys, record};

/// What is noted of redactions.
pub trait Judged: View {
    /// Whether any redaction of an event is noted.
    ///
    /// # Errors
    /// When the disk fails.
    fn has_redactions(&self, room: RoomNum, target_id: &str) -> Result<bool, StoreError> {
        Ok(!self.scan(&keys::all_redactions(room, target_id), None, 1)?.is_empty())
    }

    /// Redactions of an event that were judged alike, at most `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn redactions_of(
        &self,
        room: RoomNum,
        target_id: &str,
        judgement: Judgement,
        limit: usize,
    ) -> Result<Vec<EventNum>, StoreError> {
        self.last_numbers(&keys::redactions(room, target_id, judgement.number()), limit)
    }

    /// How a redaction of an event was judged; nothing if it is not noted.
    ///
    /// # Errors
    /// When the disk fails.
    fn judgement(
        &self,
        room: RoomNum,
        target_id: &str,
        redaction: EventNum,
    ) -> Result<Option<Judgement>, StoreError> {
        for judgement in Judgement::ALL {
            let key = keys::redaction(room, target_id, judgement.number(), redaction);
            if self.value(&key)?.is_some() {
                return Ok(Some(judgement));
            }
        }
        Ok(None)
    }

    /// Power levels that arrived before an arrival, the last first, at most `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn powers_before(
        &self,
        room: RoomNum,
        arrival: i64,
        limit: usize,
    ) -> Result<Vec<(EventNum, Power)>, StoreError> {
        let after = keys::power(room, arrival, EventNum(u32::MAX));
        let records = self.scan(&keys::powers(room), Some(&after), limit)?;
        let power = |(key, value): &(Vec<u8>, IVec)| {
            let (_, event) = keys::extremity_of(key)?;
            Some((event, unseal(key, value).and_then(record::decode_power).ok()?))
        };
        records
            .iter()
            .map(|it| power(it).ok_or_else(|| StoreError::corrupt("power levels", &it.0)))
            .collect()
    }

    /// What is known of power levels that were accepted.
    ///
    /// # Errors
    /// When it cannot be read.
    fn power(
        &self,
        room: RoomNum,
        arrival: i64,
        event: EventNum,
    ) -> Result<Option<Power>, StoreError> {
        self.read("power levels", &keys::power(room, arrival, event), record::decode_power)
    }

    /// Redactions by their arrival, behind `after`, at most `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn redactions_after(
        &self,
        room: RoomNum,
        after: (i64, EventNum),
        limit: usize,
    ) -> Result<Vec<(i64, EventNum)>, StoreError> {
        let after = keys::later_redaction(room, after.0, after.1);
        let records = self.scan(&keys::later_redactions(room), Some(&after), limit)?;
        Ok(records.iter().filter_map(|(key, _)| keys::arrival_of(key)).collect())
    }
}

impl<V: View> Judged for V {}

//! What an edit notes of events: what is missing, what waits, what is left to do, what redacts what,
//! and the states that came with events.

use super::{Edit, EventNum, GivenEvent, StoreError, View, keys, record};

/// An event for which work is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The event: its state may be known now.
    pub event: EventNum,
    /// Not all other events were told of it.
    pub is_unfinished: bool,
}

/// What was found out about a redaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing yet: its target was not held when it came.
    Unseen,
    /// It cannot be told yet whether it takes effect.
    Waiting,
    /// It takes effect.
    Heeded,
    /// It does not.
    Unheeded,
}

impl Judgement {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Unseen, Self::Waiting, Self::Heeded, Self::Unheeded];

    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Unseen => 0,
            Self::Waiting => 1,
            Self::Heeded => 2,
            Self::Unheeded => 3,
        }
    }
}

/// What is known of power levels that were accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Power {
    /// The power levels that they replaced.
    pub before: Option<EventNum>,
    /// Up to which redaction, by its arrival, those that arrived later were judged again.
    pub judged_up_to: Option<(i64, EventNum)>,
}

impl Edit<'_> {
    /// Notes that `follower` references, at `place` among its predecessors, an event that is not
    /// placed.
    pub fn put_missing(&mut self, event_id: &str, follower: EventNum, place: u32) {
        let key = keys::missing_of(self.number, event_id, follower);
        self.put(key, record::encode_missing(place, event_id));
    }

    /// Takes such a note back.
    pub fn remove_missing(&mut self, event_id: &str, follower: EventNum) {
        self.remove(keys::missing_of(self.number, event_id, follower));
    }

    /// Notes that the state of `follower` waits for that of `event`.
    pub fn put_waiting(&mut self, event: EventNum, follower: EventNum) {
        self.put(keys::waiting_of(self.number, event, follower), Vec::new());
    }

    /// Takes such a note back.
    pub fn remove_waiting(&mut self, event: EventNum, follower: EventNum) {
        self.remove(keys::waiting_of(self.number, event, follower));
    }

    /// Notes that the state of an event may be known now.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn put_unsettled(&mut self, event: EventNum) -> Result<(), StoreError> {
        self.has_unsettled = true;
        let key = keys::unsettled(self.number, event);
        if self.value(&key)?.is_none() {
            self.put(key, record::encode_unsettled(false));
        }
        Ok(())
    }

    /// Notes that not all other events were told of an event.
    pub fn put_unfinished(&mut self, event: EventNum) {
        self.has_unsettled = true;
        self.put(keys::unsettled(self.number, event), record::encode_unsettled(true));
    }

    /// Whether such a note was made.
    #[must_use]
    pub fn has_unsettled(&self) -> bool {
        self.has_unsettled
    }

    /// Takes such a note back.
    pub fn remove_unsettled(&mut self, event: EventNum) {
        self.remove(keys::unsettled(self.number, event));
    }

    /// Notes a redaction of an event, held or not.
    pub fn put_redaction(&mut self, target_id: &str, redaction: EventNum, judgement: Judgement) {
        let key = keys::redaction(self.number, target_id, judgement.number(), redaction);
        self.put(key, Vec::new());
    }

    /// Takes such a note back.
    pub fn remove_redaction(&mut self, target_id: &str, redaction: EventNum, judgement: Judgement) {
        self.remove(keys::redaction(self.number, target_id, judgement.number(), redaction));
    }

    /// Lists a redaction by its arrival.
    pub fn list_redaction(&mut self, arrival: i64, redaction: EventNum) {
        self.put(keys::later_redaction(self.number, arrival, redaction), Vec::new());
    }

    /// Takes it out of that list.
    pub fn remove_listed_redaction(&mut self, arrival: i64, redaction: EventNum) {
        self.remove(keys::later_redaction(self.number, arrival, redaction));
    }

    /// Lists power levels that were accepted, and what is known of them.
    pub fn put_power(&mut self, arrival: i64, event: EventNum, power: Power) {
        self.put(keys::power(self.number, arrival, event), record::encode_power(power));
    }

    /// Keeps the state that came with an event.
    pub fn put_given_state(&mut self, event: EventNum, state: &[GivenEvent]) {
        self.put(keys::given_state(self.number, event), record::encode_given(state));
    }

    /// Takes it back.
    pub fn remove_given_state(&mut self, event: EventNum) {
        self.remove(keys::given_state(self.number, event));
    }

    /// Notes that the state of `follower` needs an event that is not held.
    pub fn put_wanted(&mut self, event_id: &str, follower: EventNum) {
        self.put(keys::wanted_by(self.number, event_id, follower), Vec::new());
    }

    /// Takes such a note back.
    pub fn remove_wanted(&mut self, event_id: &str, follower: EventNum) {
        self.remove(keys::wanted_by(self.number, event_id, follower));
    }
}

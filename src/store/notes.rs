//! What an edit notes about events: missing predecessors, states that wait, work to be done,
//! redactions, and the states that were received with events.

use super::{Arrival, Edit, EventNum, GivenEvent, StoreError, View, keys, record};

/// An event for which work is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The event; the state after it may be known now.
    pub event: EventNum,
    /// Whether events that depend on it are still to be updated too.
    pub is_unfinished: bool,
}

/// An event that has a missing event among its predecessors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// The event with the missing predecessor.
    pub event: EventNum,
    /// The index of the missing event among its predecessors.
    pub index: u32,
}

/// Whether a redaction takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Not judged yet: the target was not held when the redaction was stored.
    Unseen,
    /// Not decided yet: the state before the redaction, or that it waits for, is not known.
    Waiting,
    /// The redaction takes effect.
    Heeded,
    /// The redaction does not take effect.
    Unheeded,
}

impl Judgement {
    /// All judgements.
    pub const ALL: [Self; 4] = [Self::Unseen, Self::Waiting, Self::Heeded, Self::Unheeded];

    /// The number of the judgement in keys.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Unseen => 0,
            Self::Waiting => 1,
            Self::Heeded => 2,
            Self::Unheeded => 3,
        }
    }
}

/// What is noted about a power levels event that was accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Power {
    /// The power levels event that it replaced; `None` if there was none, or it is not known.
    pub before: Option<EventNum>,
    /// The last of the redactions with a later arrival that were judged again because of it; `None`
    /// if none was.
    pub judged_up_to: Option<Arrival>,
}

impl Edit<'_> {
    /// Notes that `follower` has an event that is not placed among its predecessors, at `index`.
    pub fn put_missing(&mut self, event_id: &str, follower: EventNum, index: u32) {
        let key = keys::missing_of(self.number, event_id, follower);
        self.put(key, record::encode_missing(index, event_id));
    }

    /// Removes a note of [`put_missing`](Self::put_missing).
    pub fn remove_missing(&mut self, event_id: &str, follower: EventNum) {
        self.remove(keys::missing_of(self.number, event_id, follower));
    }

    /// Notes that the state of `follower` waits for that of `event`.
    pub fn put_waiting(&mut self, event: EventNum, follower: EventNum) {
        self.put(keys::waiting_of(self.number, event, follower), Vec::new());
    }

    /// Removes a note of [`put_waiting`](Self::put_waiting).
    pub fn remove_waiting(&mut self, event: EventNum, follower: EventNum) {
        self.remove(keys::waiting_of(self.number, event, follower));
    }

    /// Notes that the state after an event may be known now.
    pub fn put_unsettled(&mut self, event: EventNum) -> Result<(), StoreError> {
        self.has_unsettled = true;
        let key = keys::unsettled(self.number, event);
        if self.value(&key)?.is_none() {
            self.put(key, record::encode_unsettled(false));
        }
        Ok(())
    }

    /// Notes that events which depend on an event are still to be updated.
    pub fn put_unfinished(&mut self, event: EventNum) {
        self.has_unsettled = true;
        self.put(keys::unsettled(self.number, event), record::encode_unsettled(true));
    }

    /// Whether this edit has noted that work is left for an event.
    #[must_use]
    pub fn has_unsettled(&self) -> bool {
        self.has_unsettled
    }

    /// Removes the note that work is left for an event.
    pub fn remove_unsettled(&mut self, event: EventNum) {
        self.remove(keys::unsettled(self.number, event));
    }

    /// Notes a redaction of an event, which may be held or not.
    pub fn put_redaction(&mut self, target_id: &str, redaction: EventNum, judgement: Judgement) {
        let key = keys::redaction(self.number, target_id, judgement.number(), redaction);
        self.put(key, Vec::new());
    }

    /// Removes a note of [`put_redaction`](Self::put_redaction).
    pub fn remove_redaction(&mut self, target_id: &str, redaction: EventNum, judgement: Judgement) {
        self.remove(keys::redaction(self.number, target_id, judgement.number(), redaction));
    }

    /// Lists a redaction by its arrival.
    pub fn list_redaction(&mut self, arrival: i64, redaction: EventNum) {
        self.put(keys::later_redaction(self.number, arrival, redaction), Vec::new());
    }

    /// Removes a redaction from the list by arrival.
    pub fn remove_listed_redaction(&mut self, arrival: i64, redaction: EventNum) {
        self.remove(keys::later_redaction(self.number, arrival, redaction));
    }

    /// Lists a power levels event that was accepted, with what is noted about it.
    pub fn put_power(&mut self, arrival: i64, event: EventNum, power: Power) {
        self.put(keys::power(self.number, arrival, event), record::encode_power(power));
    }

    /// Stores the state that was received with an event.
    pub fn put_given_state(&mut self, event: EventNum, state: &[GivenEvent]) {
        self.put(keys::given_state(self.number, event), record::encode_given(state));
    }

    /// Removes the state that was received with an event.
    pub fn remove_given_state(&mut self, event: EventNum) {
        self.remove(keys::given_state(self.number, event));
    }

    /// Notes that the given state of `follower` names an event that is not held.
    pub fn put_wanted(&mut self, event_id: &str, follower: EventNum) {
        self.put(keys::wanted_by(self.number, event_id, follower), Vec::new());
    }

    /// Removes a note of [`put_wanted`](Self::put_wanted).
    pub fn remove_wanted(&mut self, event_id: &str, follower: EventNum) {
        self.remove(keys::wanted_by(self.number, event_id, follower));
    }
}

//! Reads the facts that decide the form of events for one asking server; `visibility` decides.

use std::{cell::RefCell, collections::BTreeMap};

use super::admission::{FoundRoom, members};
use crate::{
    ingest::is_redacted_by_ban,
    pdu::Pdu,
    store::{EventNode, StateNum, Store, StoreError, View},
    visibility::{EventFacts, Standing},
};

/// Finds the facts that decide the form of events. Neighbouring events mostly share their state,
/// so what a state says is looked up once.
pub(super) struct FormDecider<'a> {
    store: &'a Store,
    room: &'a FoundRoom,
    /// The name of the asking server.
    origin: &'a str,
    /// Whether the users of the server count even where everyone may read.
    always_counts: bool,
    standings: RefCell<BTreeMap<StateNum, Standing>>,
    /// The same, with the users of the server counted whatever the history visibility is.
    counted: RefCell<BTreeMap<StateNum, Standing>>,
}

impl<'a> FormDecider<'a> {
    pub(super) fn new(store: &'a Store, room: &'a FoundRoom, origin: &'a str) -> Self {
        let (standings, counted) = (RefCell::default(), RefCell::default());
        Self { store, room, origin, always_counts: false, standings, counted }
    }

    /// Counts the users of the server in every state, for a report on them.
    pub(super) fn with_users(self) -> Self {
        Self { always_counts: true, ..self }
    }

    /// The facts that decide the form of an event. The body is parsed only if it matters.
    pub(super) fn facts(&self, node: &EventNode, pdu: &[u8]) -> Result<EventFacts, StoreError> {
        let redacted = node.flags.redacted || node.flags.redaction_pending;
        let after = node.state_after.map(|it| self.standing(it)).transpose()?;
        let mut facts = EventFacts { redacted, after, before: None, sender_erased: false };
        let hidden = after.is_some_and(|it| !it.allows());
        let some_erased = self.store.has_erased_users();
        let some_banned = self.store.has_ban_redactions(&self.room.record.room_id);
        if redacted || after.is_none() || !(hidden || some_erased || some_banned) {
            return Ok(facts);
        }
        let damaged = |_| StoreError::corrupt("body", pdu.get(..16).unwrap_or_default());
        let parsed = Pdu::parse(pdu, self.room.version).map_err(damaged)?;
        facts.redacted = is_redacted_by_ban(self.store, node.arrival, &parsed);
        facts.sender_erased = self.store.is_erased(parsed.sender().as_str());
        if facts.sender_erased {
            facts.after = node.state_after.map(|it| self.counted(it)).transpose()?;
        }
        if let Some(state) = node.state_after
            && counts_before(&parsed, self.origin)
        {
            let before = self.store.state_facts(self.room.number, state)?.before;
            facts.before = before.map(|it| self.standing(it)).transpose()?;
        }
        Ok(facts)
    }

    /// What a state says about reading. Where everyone may read, the users of the server do not matter
    /// and are not looked up.
    fn standing(&self, state: StateNum) -> Result<Standing, StoreError> {
        if self.always_counts {
            return self.counted(state);
        }
        if let Some(standing) = self.standings.borrow().get(&state) {
            return Ok(*standing);
        }
        let facts = self.store.state_facts(self.room.number, state)?;
        let of_nobody = Standing::of_nobody(facts.history_visibility);
        let standing = if of_nobody.allows() { of_nobody } else { self.counted(state)? };
        self.standings.borrow_mut().insert(state, standing);
        Ok(standing)
    }

    fn counted(&self, state: StateNum) -> Result<Standing, StoreError> {
        if let Some(standing) = self.counted.borrow().get(&state) {
            return Ok(*standing);
        }
        let facts = self.store.state_facts(self.room.number, state)?;
        let members = members(self.store, self.room.number, state, self.origin)?;
        let standing = Standing {
            history_visibility: facts.history_visibility,
            joined: members.joined > 0,
            invited: members.invited > 0,
        };
        self.counted.borrow_mut().insert(state, standing);
        Ok(standing)
    }
}

/// Whether the state before an event may allow reading it too: that of a history visibility event,
/// or of a member event of the asking server's users.
fn counts_before(pdu: &Pdu, origin: &str) -> bool {
    match (pdu.event_type(), pdu.state_key()) {
        ("m.room.history_visibility", Some("")) => true,
        ("m.room.member", Some(user)) => {
            user.split_once(':').is_some_and(|(_, server)| server == origin)
        }
        _ => false,
    }
}

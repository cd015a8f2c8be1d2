//! From the events that a walk found to what the asker gets: the form of each, and its bytes.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use bytes::Bytes;

use super::{Asker, Found, QueryError, members, pages::Space};
use crate::{
    deadline::Deadline,
    graph::{End, Walk},
    pdu::{Event, Pdu, redact_stored},
    store::{Body, EventNode, EventNum, StateNum, Store, StoreError, Topology, View},
    visibility::{self, Facts, Form, Rule, Standing},
};

/// Most gaps named in an answer.
const MAX_GAPS: usize = 100;

/// An answer.
#[derive(Clone, Debug)]
pub struct Page {
    /// The events, in order.
    pub events: Vec<ServedEvent>,
    /// Why there are no more.
    pub end: End,
    /// Predecessors that the walk came upon and that are not held.
    pub missing_event_ids: Vec<String>,
    /// How many events were looked at.
    pub visited: u32,
}

/// An event of an answer.
#[derive(Clone, Debug)]
pub struct ServedEvent {
    /// Its id.
    pub event_id: String,
    /// The PDU in its form.
    pub pdu: Bytes,
    /// The form.
    pub form: Form,
}

/// An answer while a walk fills it: each event is read, and its form decided, as it is found. So no
/// body is read that has no room.
pub(super) struct Filling<'a> {
    store: &'a Store,
    found: &'a Found,
    topology: &'a Topology<'a, Store>,
    judge: Judge<'a>,
    deadline: &'a Deadline,
    space: Space,
    events: BTreeMap<EventNum, ServedEvent>,
}

impl<'a> Filling<'a> {
    pub(super) fn new(
        store: &'a Store,
        (found, topology): (&'a Found, &'a Topology<'a, Store>),
        asker: &'a Asker,
        deadline: &'a Deadline,
    ) -> Self {
        let judge = Judge::new(store, found, asker);
        let (space, events) = (Space::default(), BTreeMap::new());
        Self { store, found, topology, judge, deadline, space, events }
    }

    /// Takes an event in, if it has room.
    pub(super) fn take(&mut self, event: EventNum) -> Result<bool, QueryError> {
        self.deadline.check()?;
        let Some(node) = self.topology.node(event)? else { return Ok(true) };
        let Body { event_id, pdu } = self.store.body(self.found.number, event)?;
        let (form, _) = self.judge.form(&node, &pdu)?;
        let pdu = match form {
            Form::Full => pdu,
            Form::Redacted => redact_stored(&pdu, self.found.version)
                .map_err(|_| StoreError::corrupt("body", event_id.as_bytes()))?
                .into(),
        };
        let fits = self.space.take(event_id.len() + pdu.len());
        if fits {
            self.events.insert(event, ServedEvent { event_id, pdu, form });
        }
        Ok(fits)
    }

    /// The answer, in the order that the walk gives.
    pub(super) fn finish(mut self, walk: Walk<EventNum>) -> Result<Page, QueryError> {
        let Walk { found, gaps, end, visited } = walk;
        let events = found.iter().filter_map(|it| self.events.remove(it)).collect();
        let missing_event_ids = missing(self.store, self.found, &gaps)?;
        Ok(Page { events, end, missing_event_ids, visited })
    }
}

/// The predecessors of some events that are not held.
fn missing(store: &Store, found: &Found, gaps: &[EventNum]) -> Result<Vec<String>, QueryError> {
    let (mut named, mut seen) = (Vec::new(), BTreeSet::new());
    // Mostly each names one that no other has named.
    for event in gaps.iter().take(MAX_GAPS) {
        let body = store.body(found.number, *event)?;
        let Ok(read) = Event::read(&body.pdu, found.version, &body.event_id) else { continue };
        for prev in read.prev_events() {
            if named.len() >= MAX_GAPS {
                return Ok(named);
            }
            let placed = match store.event_num(found.number, prev.as_str())? {
                Some(prev) => {
                    let node = store.topology(found.number).node(prev)?;
                    node.is_some_and(|it| !it.flags.outlier)
                }
                None => false,
            };
            if !placed && seen.insert(prev.as_str().to_owned()) {
                named.push(prev.as_str().to_owned());
            }
        }
    }
    Ok(named)
}

/// Decides the forms of a page's events for one asker. Neighbouring events mostly share their
/// state: what a state says is looked up once.
pub(super) struct Judge<'a> {
    store: &'a Store,
    found: &'a Found,
    /// The asking server; none for a sister service.
    origin: Option<&'a str>,
    standings: RefCell<BTreeMap<StateNum, Standing>>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(store: &'a Store, found: &'a Found, asker: &'a Asker) -> Self {
        let origin = match asker {
            Asker::Sister => None,
            Asker::Server { origin, .. } => Some(origin.as_str()),
        };
        Self { store, found, origin, standings: RefCell::default() }
    }

    /// The form of an event, and the rule that decided it.
    pub(super) fn form(&self, node: &EventNode, pdu: &[u8]) -> Result<(Form, Rule), StoreError> {
        let Some(origin) = self.origin else { return Ok((Form::Full, Rule::VisibleAfter)) };
        Ok(visibility::decide(self.facts(node, (pdu, origin))?))
    }

    /// The facts that decide an event's form.
    pub(super) fn facts(
        &self,
        node: &EventNode,
        (pdu, origin): (&[u8], &str),
    ) -> Result<Facts, StoreError> {
        let redacted = node.flags.redacted || node.flags.redaction_pending;
        let after = node.state_after.map(|it| self.standing(it, origin)).transpose()?;
        let mut facts = Facts { redacted, after, before: None, sender_erased: false };
        let hidden = after.is_some_and(|it| !it.allows());
        let some_erased = self.store.has_erased_users();
        if redacted || after.is_none() || !(hidden || some_erased) {
            return Ok(facts);
        }
        let damaged = |_| StoreError::corrupt("body", pdu.get(..16).unwrap_or_default());
        let parsed = Pdu::parse(pdu, self.found.version).map_err(damaged)?;
        facts.sender_erased = self.store.is_erased(parsed.sender().as_str());
        if let Some(state) = node.state_after
            && concerns(&parsed, origin)
        {
            let before = self.store.state_facts(self.found.number, state)?.before;
            facts.before = before.map(|it| self.standing(it, origin)).transpose()?;
        }
        Ok(facts)
    }

    /// What a state says to the asking server.
    fn standing(&self, state: StateNum, origin: &str) -> Result<Standing, StoreError> {
        if let Some(standing) = self.standings.borrow().get(&state) {
            return Ok(*standing);
        }
        let history_visibility =
            self.store.state_facts(self.found.number, state)?.history_visibility;
        let (joined, invited) = members(self.store, self.found.number, (state, origin))?;
        let standing = Standing { history_visibility, joined: joined > 0, invited: invited > 0 };
        self.standings.borrow_mut().insert(state, standing);
        Ok(standing)
    }
}

/// Whether an event may be read when either side of it allows: one of history visibility, or a
/// member event of the asking server's users.
fn concerns(pdu: &Pdu, origin: &str) -> bool {
    match (pdu.event_type(), pdu.state_key()) {
        ("m.room.history_visibility", Some("")) => true,
        ("m.room.member", Some(user)) => {
            user.split_once(':').is_some_and(|(_, server)| server == origin)
        }
        _ => false,
    }
}

//! A second implementation of the rules of access and visibility: slow, obvious, and on whole states.
//!
//! It shares only the state resolution algorithm with the service. Every result is computed from the
//! events alone.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use backscroll::{
    ingest::Verdict,
    pdu::RoomVersion,
    state::resolution::{self, StateEvent, StateMap},
};
use ruma::{EventId, OwnedEventId};
use serde_json::{Value, value::to_raw_value};

/// The server that owns the history.
pub(crate) const HOME: &str = "one.example";

/// A stored event.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) pdu: Value,
    pub(crate) prev: Vec<String>,
    pub(crate) verdict: Verdict,
    pub(crate) outlier: bool,
    pub(crate) arrival: i64,
    /// The ids of the state that was given with it.
    given: Vec<String>,
    /// Whether it breaks the format of its room version.
    unreadable: bool,
    /// Whether it is a redaction whose sender had no power to redact when it arrived.
    pub(crate) powerless: bool,
}

/// The events and states that the service should know.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) version: RoomVersion,
    room_id: String,
    pub(crate) held: BTreeMap<String, Held>,
    pub(crate) erased: BTreeSet<String>,
    /// The known states after events. A known state does not change.
    states: RefCell<BTreeMap<String, StateMap>>,
    /// The last known current state, and the states that it was resolved from.
    known: Option<(StateMap, Vec<StateMap>)>,
    /// The states that became known since and were followed by events of unknown state.
    known_since: Vec<StateMap>,
    /// Whether the current state was unknown after the last event.
    was_unknown: bool,
}

/// The greatest depth that every server can read.
const MAX_DEPTH: i64 = (1 << 53) - 1;

/// An event to be appended.
pub(crate) struct ToAppend<'a> {
    pub(crate) event_id: &'a str,
    pub(crate) pdu: &'a str,
    /// Whether it breaks the format of its room version.
    pub(crate) unreadable: bool,
    pub(crate) verdict: Verdict,
    pub(crate) outlier: bool,
    pub(crate) given: &'a [String],
    pub(crate) arrival: i64,
}

impl Held {
    fn text(&self, member: &str) -> &str {
        self.pdu[member].as_str().unwrap_or_default()
    }

    /// The depth for `min_depth`: an unreadable event ends no walk.
    pub(crate) fn depth(&self) -> i64 {
        if self.unreadable { i64::MAX } else { self.pdu["depth"].as_i64().unwrap() }
    }

    /// Whether a response may contain it.
    pub(crate) fn is_served(&self) -> bool {
        !self.unreadable && self.verdict != Verdict::Rejected && self.depth() <= MAX_DEPTH
    }

    fn key(&self) -> Option<(String, String)> {
        let (kind, key) = (self.pdu["type"].as_str()?, self.pdu["state_key"].as_str()?);
        Some((kind.to_owned(), key.to_owned()))
    }

    fn is_accepted(&self) -> bool {
        !self.outlier && self.verdict == Verdict::Accepted
    }

    pub(crate) fn redacts(&self) -> Option<&str> {
        let target = self.pdu["redacts"].as_str().or(self.pdu["content"]["redacts"].as_str());
        target.filter(|_| self.text("type") == "m.room.redaction" && !self.unreadable)
    }
}

pub(crate) fn server_of(user: &str) -> &str {
    user.split_once(':').map_or("", |(_, server)| server)
}

impl Model {
    pub(crate) fn new(version: RoomVersion, room_id: &str) -> Self {
        let (held, erased, states, known, known_since) = Default::default();
        let room_id = room_id.to_owned();
        Self { version, room_id, held, erased, states, known, known_since, was_unknown: false }
    }

    /// Appends an event. A stored event does not change, unless it was an outlier, or its state was unknown
    /// and is given now.
    pub(crate) fn add(&mut self, to_append: &ToAppend<'_>) {
        let ends = self.ends();
        self.take(to_append);
        let current = self.current();
        let now: Vec<String> = self.ends();
        if let Some(current) = current {
            let over = now.iter().filter_map(|it| self.after(it)).collect();
            (self.known, self.known_since) = (Some((current, over)), vec![]);
            self.was_unknown = false;
            return;
        }
        let is_unknown = |id: &str| self.placed(id).is_some() && self.after(id).is_none();
        // The event that made the current state unknown adds no state: its state is unknown.
        if self.known.is_none() || !self.was_unknown || !is_unknown(to_append.event_id) {
            self.was_unknown = true;
            return;
        }
        let followed = ends.iter().filter(|it| !now.contains(it));
        let states: Vec<StateMap> = followed.filter_map(|it| self.after(it)).collect();
        self.known_since.extend(states);
    }

    fn take(&mut self, to_append: &ToAppend<'_>) {
        let ToAppend { event_id, pdu, unreadable, verdict, outlier, given, arrival } = *to_append;
        let is_state_unknown = !outlier && self.after(event_id).is_none();
        match self.held.get_mut(event_id) {
            Some(held) if !held.outlier => {
                if is_state_unknown && !given.is_empty() {
                    held.given = given.to_vec();
                }
                return;
            }
            Some(_) if outlier => return,
            Some(_) | None => {}
        }
        let pdu: Value = serde_json::from_str(pdu).unwrap();
        let id = |it: &Value| it.as_str().or(it[0].as_str()).map(str::to_owned);
        let prev = pdu["prev_events"].as_array().into_iter().flatten().filter_map(id);
        let prev = prev.filter(|it| it.starts_with('$')).collect();
        let given = given.to_vec();
        let mut held =
            Held { pdu, prev, verdict, outlier, arrival, given, unreadable, powerless: false };
        let is_newest = self.held.values().all(|it| it.arrival <= arrival);
        let is_told = is_newest && held.prev.iter().all(|it| self.after(it).is_some());
        if held.redacts().is_some() && verdict != Verdict::Rejected && !outlier && is_told {
            let current = self.current();
            held.powerless = current.is_some_and(|it| self.has_power(&it, &held) == Some(false));
        }
        self.held.insert(event_id.to_owned(), held);
    }

    /// A stored event that is not an outlier; `None` otherwise.
    pub(crate) fn placed(&self, event_id: &str) -> Option<&Held> {
        self.held.get(event_id).filter(|it| !it.outlier)
    }

    /// The state before an event; `None` if it is unknown.
    pub(crate) fn before(&self, event_id: &str) -> Option<StateMap> {
        let held = self.placed(event_id)?;
        if held.prev.is_empty() {
            return (held.text("type") == "m.room.create" && !held.unreadable).then(StateMap::new);
        }
        self.merged(&held.prev)
    }

    /// The state after an event; `None` if it is unknown.
    pub(crate) fn after(&self, event_id: &str) -> Option<StateMap> {
        if let Some(known) = self.states.borrow().get(event_id) {
            return Some(known.clone());
        }
        let held = self.placed(event_id)?;
        let mut state = if held.given.is_empty() {
            self.before(event_id)?
        } else {
            self.state_of(&held.given)?
        };
        let is_change =
            held.given.is_empty() && held.verdict != Verdict::Rejected && !held.unreadable;
        if let Some(key) = held.key().filter(|_| is_change) {
            state.insert(key, EventId::parse(event_id).unwrap());
        }
        self.states.borrow_mut().insert(event_id.to_owned(), state.clone());
        Some(state)
    }

    fn state_of(&self, given: &[String]) -> Option<StateMap> {
        let entry = |it: &String| Some((self.held.get(it)?.key()?, EventId::parse(it).ok()?));
        given.iter().map(entry).collect()
    }

    /// Resolves the states after some events; `None` if one of them is unknown.
    fn merged(&self, event_ids: &[String]) -> Option<StateMap> {
        let states: Option<Vec<StateMap>> = event_ids.iter().map(|it| self.after(it)).collect();
        let states = states?;
        let first = states.first()?;
        if states.iter().all(|it| it == first) {
            return Some(first.clone());
        }
        // Where states differ, an unreadable event is used only if there is no other event.
        let differs =
            |key: &(String, String)| states.iter().any(|it| it.get(key) != first.get(key));
        let is_unreadable = |it: &EventId| self.held[it.as_str()].unreadable;
        let mut unreadable: BTreeMap<(String, String), OwnedEventId> = BTreeMap::new();
        let mut known = states.clone();
        for state in &mut known {
            for (key, event_id) in state.extract_if(.., |key, it| differs(key) && is_unreadable(it))
            {
                let smallest = unreadable.entry(key).or_insert_with(|| event_id.clone());
                *smallest = event_id.min(smallest.clone());
            }
        }
        let fetch = |event_id: &EventId| {
            let held = self.held.get(event_id.as_str()).filter(|it| !it.unreadable)?;
            Some(self.resolvable(event_id, held))
        };
        let resolution = resolution::resolve(self.version.rules(), &known, &fetch).ok()?;
        let waits = resolution.missing.iter().any(|it| !self.held.contains_key(it.as_str()));
        let mut state = resolution.state;
        for (key, event_id) in unreadable {
            state.entry(key).or_insert(event_id);
        }
        (!waits).then_some(state)
    }

    fn resolvable(&self, event_id: &EventId, held: &Held) -> Arc<StateEvent> {
        let ids = |member: &str| {
            let ids = held.pdu[member].as_array().unwrap().iter();
            ids.map(|it| EventId::parse(it.as_str().or(it[0].as_str()).unwrap()).unwrap()).collect()
        };
        Arc::new(StateEvent {
            event_id: event_id.to_owned(),
            room_id: self.room_id.as_str().try_into().unwrap(),
            sender: held.text("sender").try_into().unwrap(),
            event_type: held.text("type").into(),
            state_key: held.pdu["state_key"].as_str().map(str::to_owned),
            origin_server_ts: resolution::timestamp(held.pdu["origin_server_ts"].as_i64().unwrap()),
            depth: held.depth(),
            content: to_raw_value(&held.pdu["content"]).unwrap(),
            prev_events: ids("prev_events"),
            auth_events: ids("auth_events"),
            redacts: None,
            rejected: held.verdict == Verdict::Rejected,
        })
    }

    /// The current state, resolved over the forward extremities; `None` if one of their states is unknown.
    pub(crate) fn current(&self) -> Option<StateMap> {
        self.merged(&self.ends())
    }

    /// The forward extremities: accepted events that no accepted event follows, directly or through events
    /// that were not accepted.
    fn ends(&self) -> Vec<String> {
        let mut followed = BTreeSet::new();
        let mut next: Vec<&String> =
            self.held.values().filter(|it| it.is_accepted()).flat_map(|it| &it.prev).collect();
        while let Some(event_id) = next.pop() {
            if followed.insert(event_id) {
                let through = self.placed(event_id).filter(|it| !it.is_accepted());
                next.extend(through.into_iter().flat_map(|it| &it.prev));
            }
        }
        let accepted = self.held.iter().filter(|(_, it)| it.is_accepted());
        accepted.map(|(id, _)| id).filter(|it| !followed.contains(it)).cloned().collect()
    }

    fn content(&self, state: &StateMap, kind: &str) -> Option<Value> {
        let event_id = state.get(&(kind.to_owned(), String::new()))?;
        let held = &self.held[event_id.as_str()];
        Some(if held.unreadable { Value::Null } else { held.pdu["content"].clone() })
    }

    fn is_unreadable(&self, state: &StateMap, kind: &str) -> bool {
        let event_id = state.get(&(kind.to_owned(), String::new()));
        event_id.is_some_and(|it| self.held[it.as_str()].unreadable)
    }

    /// Whether a state gives the sender of a redaction the power to redact events of other users; `None` if
    /// that cannot be decided.
    fn has_power(&self, state: &StateMap, redaction: &Held) -> Option<bool> {
        let sender = redaction.text("sender");
        let create = state.get(&("m.room.create".to_owned(), String::new()))?;
        let create = &self.held[create.as_str()];
        if create.unreadable {
            return None;
        }
        let creator = match self.version {
            RoomVersion::V11 | RoomVersion::V12 => create.text("sender"),
            _ => create.pdu["content"]["creator"].as_str()?,
        };
        if self.version == RoomVersion::V12 && sender == creator {
            return Some(true);
        }
        if self.is_unreadable(state, "m.room.power_levels") {
            return None;
        }
        let Some(levels) = self.content(state, "m.room.power_levels") else {
            return Some(sender == creator);
        };
        let level = levels["users"][sender].as_i64().or(levels["users_default"].as_i64());
        Some(level.unwrap_or(0) >= levels["redact"].as_i64().unwrap_or(50))
    }

    /// Whether it is known when the power levels in the state before a redaction were in force: they were
    /// placed, and the state after them is known if they were accepted.
    fn knows_levels_of(&self, redaction: &Held) -> bool {
        let Some(state) = self.merged(&redaction.prev) else { return false };
        let Some(levels) = state.get(&("m.room.power_levels".to_owned(), String::new())) else {
            return true;
        };
        self.placed(levels.as_str())
            .is_some_and(|it| !it.is_accepted() || self.after(levels.as_str()).is_some())
    }

    /// Whether an event is redacted, or may be redacted by an undecided redaction.
    pub(crate) fn is_redacted(&self, event_id: &str) -> bool {
        let target = &self.held[event_id];
        let redactions = self.held.iter().filter(|(_, it)| {
            it.redacts() == Some(event_id) && it.verdict != Verdict::Rejected && !it.outlier
        });
        target.text("type") != "m.room.create"
            && redactions.into_iter().any(|(redaction_id, redaction)| {
                self.version <= RoomVersion::V2
                    || server_of(redaction.text("sender")) == server_of(target.text("sender"))
                    || (!(redaction.powerless && self.knows_levels_of(redaction))
                        && self
                            .after(redaction_id)
                            .is_none_or(|state| self.has_power(&state, redaction) != Some(false)))
            })
    }

    /// Whether a state contains a user of the server with this membership.
    fn has(&self, state: &StateMap, server: &str, membership: &str) -> bool {
        state.iter().any(|((kind, user), event_id)| {
            kind == "m.room.member"
                && server_of(user) == server
                && !self.held[event_id.as_str()].unreadable
                && self.held[event_id.as_str()].pdu["content"]["membership"] == membership
        })
    }

    fn allows(&self, state: &StateMap, server: &str) -> bool {
        let content = self.content(state, "m.room.history_visibility").unwrap_or_default();
        let visibility = content["history_visibility"].as_str();
        let is_unreadable = self.is_unreadable(state, "m.room.history_visibility");
        match visibility.or(is_unreadable.then_some("joined")) {
            Some("joined") => self.has(state, server, "join"),
            Some("invited") => self.has(state, server, "join") || self.has(state, server, "invite"),
            _ => true,
        }
    }

    /// Whether a server may get an event in full.
    pub(crate) fn shows_whole(&self, event_id: &str, server: &str) -> bool {
        let Some(after) = self.after(event_id) else { return false };
        let held = &self.held[event_id];
        let (kind, key) = held.key().unwrap_or_default();
        let either_side = match kind.as_str() {
            "m.room.history_visibility" => key.is_empty() && held.key().is_some(),
            "m.room.member" => server_of(&key) == server,
            _ => false,
        };
        let before = || self.before(event_id).is_some_and(|it| self.allows(&it, server));
        !self.is_redacted(event_id)
            && (self.allows(&after, server) || (either_side && before()))
            && (!self.erased.contains(held.text("sender")) || self.has(&after, server, "join"))
    }

    /// Whether a server has access: the current state must allow it. While that is unknown, the last known
    /// state and all states that became known since must allow it.
    pub(crate) fn admits(&self, server: &str) -> bool {
        if let Some(current) = self.current() {
            return self.admits_in(&current, server);
        }
        let Some((last, over)) = &self.known else { return false };
        let ends = self.ends().into_iter().filter_map(|it| self.after(&it));
        let mut since = ends.chain(self.known_since.iter().cloned());
        self.admits_in(last, server)
            && since.all(|it| over.contains(&it) || self.admits_in(&it, server))
    }

    fn admits_in(&self, current: &StateMap, server: &str) -> bool {
        let acl = current.get(&("m.room.server_acl".to_owned(), String::new()));
        let is_listed = acl.is_none_or(|event_id| {
            // Neither a redacted nor an unreadable access control list allows any server.
            let held = &self.held[event_id.as_str()];
            if held.unreadable {
                return false;
            }
            let content = &held.pdu["content"];
            let names = |list: &str| {
                let names = content[list].as_array().into_iter().flatten();
                names.filter_map(Value::as_str).any(|it| it == "*" || it == server)
            };
            !self.is_redacted(event_id.as_str()) && names("allow") && !names("deny")
        });
        is_listed && self.has(current, server, "join") && self.has(current, HOME, "join")
    }
}

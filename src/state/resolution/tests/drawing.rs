//! Draws small rooms. Each event is authorised by the state that it is sent in, unless it names others.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{EventId, OwnedEventId, RoomVersionId, room_version_rules::RoomVersionRules, state_res};
use serde_json::{Value, json, value::to_raw_value};

use super::ways::{Tally, World, all_ways};
use crate::state::resolution::{Resolution, StateEvent, StateMap, resolve, timestamp};

pub(super) const ALICE: &str = "@alice:a";
pub(super) const BOB: &str = "@bob:b";
pub(super) const CAROL: &str = "@carol:c";

/// A room that is being drawn.
pub(super) struct Drawing {
    pub(super) rules: RoomVersionRules,
    pub(super) events: BTreeMap<OwnedEventId, Arc<StateEvent>>,
    clock: i64,
}

/// The end of one branch.
#[derive(Debug, Clone)]
pub(super) struct Tip {
    pub(super) state: StateMap,
    pub(super) depth: i64,
}

/// An event to draw. Its id is `$` and its name.
pub(super) struct Draft<'a> {
    pub(super) name: &'a str,
    pub(super) sender: &'a str,
    pub(super) event_type: &'a str,
    pub(super) state_key: &'a str,
    pub(super) content: Value,
}

impl Drawing {
    /// create ◄─ Alice ◄─ power ◄─ rules ◄─ Bob ◄─ Carol: Alice may do everything, Bob has 50.
    pub(super) fn new(version: &str) -> (Self, Tip) {
        let version: RoomVersionId = version.try_into().unwrap();
        let rules = version.rules().unwrap();
        let mut drawing = Self { rules, events: BTreeMap::new(), clock: 0 };
        let mut tip = Tip { state: StateMap::new(), depth: 0 };
        let power = drawing.power(50);
        let join = || json!({"membership": "join"});
        let start = [
            ("create", ALICE, "m.room.create", "", json!({"creator": ALICE})),
            ("alice", ALICE, "m.room.member", ALICE, join()),
            ("power", ALICE, "m.room.power_levels", "", power),
            ("rules", ALICE, "m.room.join_rules", "", json!({"join_rule": "public"})),
            ("bob", BOB, "m.room.member", BOB, join()),
            ("carol", CAROL, "m.room.member", CAROL, join()),
        ];
        for (name, sender, event_type, state_key, content) in start {
            tip = drawing.send(&tip, Draft { name, sender, event_type, state_key, content });
        }
        (drawing, tip)
    }

    /// Power levels that give Alice 100 and Bob a given level.
    pub(super) fn power(&self, bob: i64) -> Value {
        let mut users = json!({ BOB: bob });
        if !self.rules.authorization.explicitly_privilege_room_creators {
            users[ALICE] = 100.into();
        }
        json!({ "users": users })
    }

    /// Adds an event at the end of a branch.
    pub(super) fn send(&mut self, tip: &Tip, draft: Draft<'_>) -> Tip {
        let event = self.draft(tip, draft);
        self.add(tip, event)
    }

    /// Adds an event at the end of a branch, if the rules of the room allow it there.
    pub(super) fn try_send(&mut self, tip: &Tip, draft: Draft<'_>) -> Option<Tip> {
        let event = self.draft(tip, draft);
        let lookup = |event_type: &ruma::events::StateEventType, state_key: &str| {
            let id = tip.state.get(&(event_type.to_string(), state_key.to_owned()))?;
            self.events.get(id).cloned()
        };
        let rules = &self.rules.authorization;
        state_res::check_state_dependent_auth_rules(rules, &event, lookup).ok()?;
        Some(self.add(tip, event))
    }

    pub(super) fn draft(&mut self, tip: &Tip, draft: Draft<'_>) -> StateEvent {
        let Draft { name, sender, event_type, state_key, content } = draft;
        self.clock += 1;
        let mut event = StateEvent {
            event_id: id(name),
            room_id: "!create".try_into().unwrap(),
            sender: sender.try_into().unwrap(),
            event_type: event_type.into(),
            state_key: Some(state_key.to_owned()),
            origin_server_ts: timestamp(self.clock),
            depth: tip.depth + 1,
            content: to_raw_value(&content).unwrap(),
            prev_events: Vec::new(),
            auth_events: Vec::new(),
            redacts: None,
            rejected: false,
        };
        let keys = event.auth_keys(&self.rules.authorization);
        event.auth_events = keys.iter().filter_map(|key| tip.state.get(key).cloned()).collect();
        event
    }

    pub(super) fn add(&mut self, tip: &Tip, event: StateEvent) -> Tip {
        let mut state = tip.state.clone();
        state.insert(event.key().unwrap(), event.event_id.clone());
        let depth = event.depth;
        self.events.insert(event.event_id.clone(), Arc::new(event));
        Tip { state, depth }
    }

    /// The state that the tips resolve to, in every way and order of `all_ways`.
    pub(super) fn merge(&self, tips: &[&Tip]) -> Tip {
        let states: Vec<_> = tips.iter().map(|tip| tip.state.clone()).collect();
        let world = World { name: "drawn", rules: &self.rules, events: &self.events };
        let state = all_ways(&world, &states, &mut Tally::default());
        Tip { state, depth: tips.iter().map(|tip| tip.depth).max().unwrap() }
    }

    /// The state that the tips resolve to; events may be missing.
    pub(super) fn resolve(&self, tips: &[&Tip]) -> Resolution {
        let states: Vec<_> = tips.iter().map(|tip| tip.state.clone()).collect();
        resolve(&self.rules, &states, &|id: &EventId| self.events.get(id).cloned()).unwrap()
    }
}

impl Tip {
    /// The name of the event for an entry.
    pub(super) fn name(&self, event_type: &str, state_key: &str) -> Option<&str> {
        let id = self.state.get(&(event_type.to_owned(), state_key.to_owned()))?;
        Some(&id.as_str()[1..])
    }
}

pub(super) fn id(name: &str) -> OwnedEventId {
    format!("${name}").try_into().unwrap()
}

pub(super) fn topic<'a>(name: &'a str, sender: &'a str) -> Draft<'a> {
    Draft {
        name,
        sender,
        event_type: "m.room.topic",
        state_key: "",
        content: json!({ "topic": name }),
    }
}

pub(super) fn member<'a>(
    name: &'a str,
    sender: &'a str,
    target: &'a str,
    membership: &str,
) -> Draft<'a> {
    Draft {
        name,
        sender,
        event_type: "m.room.member",
        state_key: target,
        content: json!({ "membership": membership }),
    }
}

pub(super) fn power<'a>(name: &'a str, sender: &'a str, content: Value) -> Draft<'a> {
    Draft { name, sender, event_type: "m.room.power_levels", state_key: "", content }
}

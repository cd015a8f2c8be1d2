//! Explains to the operator why a server gets an event in full, redacted or not at all. Uses the same
//! facts and the same rules as an answer to that server.

use super::{
    QueryError, Question,
    admission::{FoundRoom, deciding_states, find_internal, members, not_served_reason, refusal},
    form::FormDecider,
    servable::{NotServed, not_served},
    state_needed::state_needed,
};
use crate::{
    access::AccessRefusal,
    context::Context,
    deadline::Deadline,
    pdu::Event,
    store::{EventNode, Store, StoreError, View},
    visibility::{self, EventFacts, Form, Standing},
};

/// The most states that are described, where several decide whether a server may ask.
const MAX_STATES: usize = 10;

/// What a server gets of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The event as it was signed.
    Full,
    /// The redacted form of the event.
    Redacted,
    /// Other events of the room, but never this one.
    NotServed,
    /// No event of the room.
    Refused,
}

/// The explanation of what a server gets of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What the server gets.
    pub access: Access,
    /// The rule that decided, in words.
    pub rule: String,
    /// The facts on which it was decided, in words.
    pub facts: Vec<String>,
}

/// Asks what a server gets of an event, and why.
#[derive(Clone, Debug)]
pub struct ExplainAccess {
    /// The id of the room.
    pub room_id: String,
    /// The id of the event.
    pub event_id: String,
    /// The server that would ask.
    pub origin: String,
    /// Our own name, as the server would address us.
    pub destination: String,
}

impl Question for ExplainAccess {
    type Answer = Explanation;

    fn room_id(&self) -> Option<&str> {
        Some(&self.room_id)
    }

    fn try_answer(&self, cx: &Context, _: &Deadline) -> Result<Explanation, QueryError> {
        let store = &cx.store;
        let room = find_internal(store, &self.room_id)?;
        let unknown = || QueryError::EventUnknown(self.event_id.clone());
        let event = store.event_num(room.number, &self.event_id)?.ok_or_else(unknown)?;
        let node = store.topology(room.number).node(event)?.ok_or_else(unknown)?;
        let mut facts = describe_room(store, &room, [&self.origin, &self.destination])?;
        if let Some(reason) = not_served_reason(store, &self.room_id)? {
            facts.push(format!("now: the room is not served to other servers: {reason}"));
            let rule = "the room is not served to other servers".to_owned();
            return Ok(Explanation { access: Access::Refused, rule, facts });
        }
        if let Some(refusal) = refusal(store, &room, &self.origin, &self.destination)? {
            if refusal == AccessRefusal::Acl {
                facts.push("now: the room has an m.room.server_acl".to_owned());
            }
            return Ok(Explanation { access: Access::Refused, rule: refusal.to_string(), facts });
        }
        let body = store.body(room.number, event)?;
        if let Some(why) = not_served(&node) {
            if why == NotServed::Unreadable
                && let Ok(Event::Unreadable(it)) =
                    Event::read(&body.pdu, room.version, &body.event_id)
            {
                facts.push(format!("the event cannot be read: {}", it.why()));
            }
            return Ok(Explanation { access: Access::NotServed, rule: why.to_string(), facts });
        }
        let decider = FormDecider::new(store, &room, &self.origin).with_users();
        let event_facts = decider.facts(&node, &body.pdu)?;
        let rule = visibility::decide(event_facts);
        facts.extend(describe_event(&node, event_facts, &self.origin));
        let access = match rule.form() {
            Form::Full => Access::Full,
            Form::Redacted => Access::Redacted,
        };
        Ok(Explanation { access, rule: rule.to_string(), facts })
    }
}

/// Describes what is known about two servers in the states that decide whether a server may ask.
fn describe_room(
    store: &Store,
    room: &FoundRoom,
    servers: [&str; 2],
) -> Result<Vec<String>, StoreError> {
    let mut facts = Vec::new();
    let is_known = room.record.current_state.is_some();
    if !is_known {
        facts.push("now: the current state of the room is not known".to_owned());
        let needed = state_needed(store, room.number, &room.record)?;
        if needed.is_empty() && room.record.forward_extremities > 0 {
            facts.push(
                "now: the states after its forward extremities cannot be made one: an event that \
                 authorises some of them is not held"
                    .to_owned(),
            );
        } else if !needed.is_empty() {
            facts.push(format!(
                "now: it is known again when each of these, which may not be all, was appended \
                 again with `state_after`: {}",
                needed.join(" ")
            ));
        }
    }
    let states = deciding_states(store, room)?.unwrap_or_default();
    if !is_known && !states.is_empty() {
        facts.push(
            "now: what was known last decides who may ask, and what is known since can only take \
             rights away"
                .to_owned(),
        );
    }
    let when = if is_known { "now" } else { "last known" };
    for state in states.into_iter().take(MAX_STATES) {
        for server in servers {
            let members = members(store, room.number, state, server)?;
            facts.push(format!(
                "{when}: {server} has {} joined and {} invited users",
                members.joined, members.invited
            ));
        }
    }
    Ok(facts)
}

/// Describes the facts that decide the form of an event.
fn describe_event(node: &EventNode, decided_on: EventFacts, origin: &str) -> Vec<String> {
    let mut facts = Vec::new();
    if node.flags.redacted {
        facts.push("at the event: a valid redaction of it is held".to_owned());
    }
    if node.flags.redaction_pending {
        let why = "a redaction of it is held whose validity is not known yet";
        facts.push(format!("at the event: {why}"));
    }
    let by_redaction = node.flags.redacted || node.flags.redaction_pending;
    if decided_on.redacted && !by_redaction {
        facts.push("the sender is banned, and the ban redacts the event".to_owned());
    }
    if decided_on.sender_erased {
        facts.push("the sender asked for erasure".to_owned());
    }
    facts.extend(decided_on.after.map(|it| describe_standing("after", origin, it)));
    facts.extend(decided_on.before.map(|it| describe_standing("before", origin, it)));
    if node.state_after.is_none() {
        let how = "append the event again with `state_after`, or its predecessors that are missing";
        facts.push(format!("at the event: the state is not known; {how}"));
    }
    facts
}

fn describe_standing(side: &str, origin: &str, standing: Standing) -> String {
    let Standing { history_visibility, joined, invited } = standing;
    let users = match (joined, invited) {
        (true, _) => "a joined user",
        (false, true) => "an invited user, none joined",
        (false, false) => "no joined or invited user",
    };
    format!("{side} the event: history visibility is {history_visibility}; {origin} has {users}")
}

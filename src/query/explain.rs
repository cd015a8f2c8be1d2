//! Why a server gets an event whole, redacted, or is refused: the same facts and the same rules
//! as an answer, put into words for the operator.

use super::{
    Asker, Found, QueryError, Withheld, admission::deciding, find, may_ask, members, serve::Judge,
    unknown::state_needed, withheld,
};
use crate::{
    access::Refusal,
    context::Context,
    pdu::Event,
    store::{Store, StoreError, View},
    visibility::{Form, Standing},
};

/// States described at most, where several decide who may ask.
const MAX_STATES: usize = 10;

/// What a server gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The event, as it was signed.
    Full,
    /// Its redacted form.
    Redacted,
    /// Never this event.
    NotServed,
    /// Nothing at all about this room.
    Refused,
}

/// An explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What the server gets.
    pub access: Access,
    /// The rule that decided.
    pub rule: String,
    /// The facts it was decided on.
    pub facts: Vec<String>,
}

/// Explains what `origin`, asking `destination`, gets of an event.
///
/// # Errors
/// When there is no such room or event, or the store fails.
pub fn explain_access(
    cx: &Context,
    (room_id, event_id): (&str, &str),
    (origin, destination): (&str, &str),
) -> Result<Explanation, QueryError> {
    let store = &cx.store;
    let found = find(store, room_id)?.ok_or_else(|| QueryError::RoomUnknown(room_id.to_owned()))?;
    let unknown = || QueryError::EventUnknown(event_id.to_owned());
    let event = store.event_num(found.number, event_id)?.ok_or_else(unknown)?;
    let node = store.topology(found.number).node(event)?.ok_or_else(unknown)?;
    let mut facts = now(store, &found, [origin, destination])?;
    if let Err(refusal) = may_ask(store, &found, (origin, destination))? {
        let rule = refusal.to_string();
        if refusal == Refusal::Acl {
            facts.push("now: the room has an m.room.server_acl".to_owned());
        }
        return Ok(Explanation { access: Access::Refused, rule, facts });
    }
    if let Some(why) = withheld(&node) {
        if why == Withheld::Unreadable {
            let body = store.body(found.number, event)?;
            if let Ok(Event::Unreadable(it)) = Event::read(&body.pdu, found.version, &body.event_id)
            {
                facts.push(format!("the event cannot be read: {}", it.why()));
            }
        }
        let rule = why.to_string();
        return Ok(Explanation { access: Access::NotServed, rule, facts });
    }
    let asker = Asker::Server { origin: origin.to_owned(), destination: destination.to_owned() };
    let judge = Judge::new(store, &found, &asker);
    let body = store.body(found.number, event)?;
    let decided_on = judge.facts(&node, (&body.pdu, origin))?;
    let (form, rule) = judge.form(&node, &body.pdu)?;
    if node.flags.redacted {
        facts.push("at the event: a valid redaction of it is held".to_owned());
    }
    if node.flags.redaction_pending {
        let why = "a redaction of it is held whose validity cannot be told yet";
        facts.push(format!("at the event: {why}"));
    }
    if decided_on.sender_erased {
        facts.push("the sender asked for erasure".to_owned());
    }
    let sides = [("after", decided_on.after), ("before", decided_on.before)];
    facts.extend(sides.iter().filter_map(|(side, it)| it.map(|it| describe(side, origin, it))));
    if node.state_after.is_none() {
        let how = "append the event again with `state_after`, or its predecessors that are missing";
        facts.push(format!("at the event: the state is not known; {how}"));
    }
    let access = match form {
        Form::Full => Access::Full,
        Form::Redacted => Access::Redacted,
    };
    Ok(Explanation { access, rule: rule.to_string(), facts })
}

/// What is known of two servers in the states that decide who may ask.
fn now(store: &Store, found: &Found, servers: [&str; 2]) -> Result<Vec<String>, StoreError> {
    let mut facts = Vec::new();
    let is_known = found.room.current_state.is_some();
    if !is_known {
        facts.push("now: the current state of the room is not known".to_owned());
        let needed = state_needed(store, found.number, &found.room)?;
        if needed.is_empty() && found.room.forward_extremities > 0 {
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
    let states = deciding(store, found)?.unwrap_or_default();
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
            let (joined, invited) = members(store, found.number, (state, server))?;
            facts.push(format!("{when}: {server} has {joined} joined and {invited} invited users"));
        }
    }
    Ok(facts)
}

fn describe(side: &str, origin: &str, standing: Standing) -> String {
    let Standing { history_visibility, joined, invited } = standing;
    let users = match (joined, invited) {
        (true, _) => "a joined user",
        (false, true) => "an invited user, none joined",
        (false, false) => "no joined or invited user",
    };
    format!("{side} the event: history visibility is {history_visibility}; {origin} has {users}")
}

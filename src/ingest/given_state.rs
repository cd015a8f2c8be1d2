//! The state that is given with an event: the ids of all state events after it.

use std::collections::BTreeSet;

use super::{Refusal, check::Checked, refusal::NotTaken, stored::read_stored};
use crate::{
    pdu::{Event, EventId},
    state::map::{self, MapKey, Value},
    store::{Edit, EventNode, EventNum, GivenEvent, StateNum, StoreError, View},
};

/// The most ids of a state that is given with an event.
pub const MAX_STATE_AFTER: usize = 200_000;

/// A state that is given with an event, before the event has a number.
pub(super) struct GivenState {
    /// Whether the event itself is part of the state.
    has_own: bool,
    others: Vec<GivenEvent>,
}

impl GivenState {
    /// The state as it is stored, with the event itself last.
    pub(super) fn of(self, event: EventNum) -> Vec<GivenEvent> {
        let Self { has_own, mut others } = self;
        others.extend(has_own.then_some(GivenEvent::Held(event)));
        others
    }
}

/// Looks up the events of a given state. Events that are not stored are kept as ids; they may be
/// received later. `None` if no state is given.
pub(super) fn look_up(
    edit: &Edit<'_>,
    state_after: &[String],
    checked: &Checked,
) -> Result<Option<GivenState>, NotTaken> {
    if state_after.is_empty() {
        return Ok(None);
    }
    let own_id = checked.event.event_id().as_str();
    if state_after.len() > MAX_STATE_AFTER {
        return Err(NotTaken::refused(own_id, Refusal::StateTooLong(state_after.len())));
    }
    let invalid = |event_id: &str, what| {
        let event_id = event_id.to_owned();
        NotTaken::refused(own_id, Refusal::StateInvalid { event_id, what })
    };
    let mut given = GivenState { has_own: false, others: Vec::with_capacity(state_after.len()) };
    let mut entries = BTreeSet::new();
    for event_id in state_after {
        let read;
        let event = if event_id == own_id {
            given.has_own = true;
            &checked.event
        } else if let Some(number) = edit.event_num(edit.room_num(), event_id)? {
            given.others.push(GivenEvent::Held(number));
            read = read_stored(edit, number, checked.version)?;
            &read
        } else if EventId::parse(event_id).is_err() {
            return Err(invalid(event_id, "is not an event id"));
        } else {
            given.others.push(GivenEvent::Named(event_id.clone()));
            continue;
        };
        let Some((event_type, state_key)) = event.state_entry() else {
            match event {
                Event::Readable(_) => return Err(invalid(event_id, "is not a state event")),
                // An unreadable event may have an unreadable type or state key.
                Event::Unreadable(_) => continue,
            }
        };
        if !entries.insert(MapKey::of_state(event_type, state_key)) {
            let what = "is the second event for its type and state key";
            return Err(invalid(event_id, what));
        }
    }
    Ok(Some(given))
}

/// Stores the state that is given for an event whose state is not known, in place of one that was
/// given before. Returns whether that changed anything.
pub(super) fn replace(
    edit: &mut Edit<'_>,
    event: EventNum,
    given: Option<GivenState>,
) -> Result<bool, StoreError> {
    let Some(given) = given.map(|it| it.of(event)) else { return Ok(false) };
    let before = edit.given_state(edit.room_num(), event)?.unwrap_or_default();
    // The ids are compared: events that were not stored then may be stored now.
    if ids(edit, &before)? == ids(edit, &given)? {
        return Ok(false);
    }
    for it in before {
        if let GivenEvent::Named(event_id) = it {
            edit.remove_wanted(&event_id, event);
        }
    }
    edit.put_given_state(event, &given);
    Ok(true)
}

/// Puts a state event into the state that was given with it, or takes it out, after its rejection was
/// withdrawn or decided. `node` is the event's node before that. Does nothing if no state was given.
pub(super) fn set_own(
    edit: &mut Edit<'_>,
    event: EventNum,
    read: &Event,
    node: &EventNode,
) -> Result<(), StoreError> {
    let Some(mut given) = edit.given_state(edit.room_num(), event)? else { return Ok(()) };
    let Some((event_type, state_key)) = read.state_entry() else { return Ok(()) };
    let key = MapKey::of_state(event_type, state_key);
    let is_in = |edit: &Edit<'_>, state: Option<StateNum>| {
        let value = match state {
            Some(state) => map::get(&edit.states(edit.room_num()), state.root(), key)?,
            None => None,
        };
        Ok::<_, StoreError>(match value {
            Some(Value::Event { event, .. }) => Some(GivenEvent::Held(EventNum(event))),
            Some(Value::Server { .. }) | None => None,
        })
    };
    let own = GivenEvent::Held(event);
    let replaced = if node.flags.rejected {
        // It replaces the event that had its place.
        let other = is_in(edit, node.state_after)?;
        given.retain(|it| Some(it) != other.as_ref() && *it != own);
        Some(own)
    } else {
        given.retain(|it| *it != own);
        let before = match node.state_after {
            Some(state) => edit.state_facts(edit.room_num(), state)?.before,
            None => None,
        };
        is_in(edit, before)?
    };
    given.extend(replaced);
    edit.put_given_state(event, &given);
    Ok(())
}

fn ids(edit: &Edit<'_>, given: &[GivenEvent]) -> Result<BTreeSet<String>, StoreError> {
    let id = |it: &GivenEvent| match it {
        GivenEvent::Held(event) => Ok(edit.body(edit.room_num(), *event)?.event_id),
        GivenEvent::Named(event_id) => Ok(event_id.clone()),
    };
    given.iter().map(id).collect()
}

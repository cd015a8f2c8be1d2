//! Where branches meet: one state from several. Brings the stored states and the events to
//! [`crate::state::resolution`], and its answer back.
//!
//! Only the entries in which the states differ are looked at; finding them costs no more than
//! their number, since the states share what they have in common.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::warn;

use super::{
    held::{parse_held, read_held, version_of},
    state::{self, Base, Entry},
};
use crate::{
    pdu::{self, Event, Pdu, RoomVersion},
    state::{
        map::{self, Key, Value},
        resolution::{self, Conflict, Resolution, StateEvent, StateKey, StateMap},
    },
    store::{Edit, EventNum, StateNum, StoreError, View},
};

/// Resolves several distinct states, for `event` to wait if that takes an event that is not held:
/// without it, the outcome could be another than everywhere else, and would stay so. Nothing if
/// they cannot be resolved (yet): then what follows has no known state, which hides it.
pub(super) fn merge(
    edit: &mut Edit<'_>,
    event: EventNum,
    states: &[StateNum],
) -> Result<Option<StateNum>, StoreError> {
    let version = version_of(edit)?;
    let Some((first, _)) = states.split_first() else { return Ok(None) };
    let differing = differing(edit, states)?;
    let events = Events { edit, version, failure: Cell::new(None) };
    let Some(conflict) = events.conflict(states, &differing)? else { return Ok(None) };
    let resolved = events.resolve(*first, (&differing, &conflict))?;
    let Some(Resolution { state, missing }) = resolved else { return Ok(None) };
    if is_waiting(edit, event, &missing)? {
        return Ok(None);
    }
    let (mut entries, mut removals) = (Vec::new(), Vec::new());
    let mut open = unreadable(edit, version, &differing)?;
    for (event_type, state_key) in conflict.iter().flat_map(StateMap::keys).collect::<BTreeSet<_>>()
    {
        let key = Key::of_state(event_type, state_key);
        match state.get(&(event_type.clone(), state_key.clone())) {
            None if open.contains_key(&key) => {}
            None => removals.push(key),
            Some(event_id) => {
                let Some(event) = edit.event_num(edit.room_num(), event_id.as_str())? else {
                    return Ok(None);
                };
                let read = read_held(edit, event, version)?;
                entries.extend(Entry::of(event, &read));
                open.remove(&key);
            }
        }
    }
    entries.extend(open.into_values());
    let base = Base { share: Some(*first), before: None };
    state::write(edit, base, &entries, &removals).map(Some)
}

/// Notes which of the events that were looked for in vain have to come first. Those that are held
/// but cannot be read never will.
fn is_waiting(
    edit: &mut Edit<'_>,
    event: EventNum,
    missing: &BTreeSet<OwnedEventId>,
) -> Result<bool, StoreError> {
    let mut waits = false;
    for event_id in missing {
        if edit.event_num(edit.room_num(), event_id.as_str())?.is_none() {
            edit.put_wanted(event_id.as_str(), event);
            waits = true;
        }
    }
    Ok(waits)
}

/// For each key in which some of the states differ, the event that each state has there.
type Differing = BTreeMap<Key, Vec<Option<EventNum>>>;

fn differing(edit: &Edit<'_>, states: &[StateNum]) -> Result<Differing, StoreError> {
    let nodes = edit.states(edit.room_num());
    let event = |value: Option<Value>| match value {
        Some(Value::Event { event, .. }) => Some(EventNum(event)),
        Some(Value::Server { .. }) | None => None,
    };
    let mut differing = Differing::new();
    let Some((first, others)) = states.split_first() else { return Ok(differing) };
    for (place, other) in (1..).zip(others) {
        for (key, in_first, in_other) in map::diff(&nodes, first.root(), other.root())? {
            let (in_first, in_other) = (event(in_first), event(in_other));
            if in_first.or(in_other).is_none() {
                continue;
            }
            // Where another does not differ from the first, it has what the first has.
            let values = differing.entry(key).or_insert_with(|| vec![in_first; states.len()]);
            if let Some(value) = values.get_mut(place) {
                *value = in_other;
            }
        }
    }
    Ok(differing)
}

/// For each key that differs, the unreadable event that some state has there, by the smallest id.
/// Resolution does not know these: none stands where anything else does. But where nothing else is
/// left it stays, since what would be there without it (no access control list, say) could grant
/// more.
fn unreadable(
    edit: &Edit<'_>,
    version: RoomVersion,
    differing: &Differing,
) -> Result<BTreeMap<Key, Entry>, StoreError> {
    let mut found = BTreeMap::new();
    if edit.room.unreadable == 0 {
        return Ok(found);
    }
    for (key, values) in differing {
        let mut smallest: Option<(String, Entry)> = None;
        for event in values.iter().flatten() {
            let read = read_held(edit, *event, version)?;
            let event_id = read.event_id().as_str();
            if read.pdu().is_none() && smallest.as_ref().is_none_or(|it| event_id < it.0.as_str()) {
                smallest = Entry::of(*event, &read).map(|it| (event_id.to_owned(), it));
            }
        }
        found.extend(smallest.map(|(_, entry)| (*key, entry)));
    }
    Ok(found)
}

/// The room's events, as resolution asks for them.
struct Events<'e, 's> {
    edit: &'e Edit<'s>,
    version: RoomVersion,
    /// Resolution knows no failing look-ups: the first failure is kept here.
    failure: Cell<Option<StoreError>>,
}

impl Events<'_, '_> {
    /// The conflicted entries of each state, in resolution's words, without those that cannot be
    /// read. Nothing if an event is no state event of its room.
    fn conflict(
        &self,
        states: &[StateNum],
        differing: &Differing,
    ) -> Result<Option<Vec<StateMap>>, StoreError> {
        let mut maps = vec![StateMap::new(); states.len()];
        for values in differing.values() {
            // Most states have the same event here.
            let mut entries = BTreeMap::new();
            for event in values.iter().flatten() {
                if entries.contains_key(event) {
                    continue;
                }
                let Some(entry) = self.entry(*event)? else { return Ok(None) };
                entries.insert(*event, entry);
            }
            for (map, event) in maps.iter_mut().zip(values) {
                let entry = event.and_then(|it| entries.get(&it).cloned());
                map.extend(entry.flatten());
            }
        }
        Ok(Some(maps))
    }

    /// What a state event stands for, and its id; for nothing if it is unreadable. Nothing if it is
    /// no state event.
    fn entry(
        &self,
        event: EventNum,
    ) -> Result<Option<Option<(StateKey, OwnedEventId)>>, StoreError> {
        let pdu = match read_held(self.edit, event, self.version)? {
            Event::Readable(pdu) => pdu,
            Event::Unreadable(_) => return Ok(Some(None)),
        };
        let key = pdu.state_key().map(|it| (pdu.event_type().to_owned(), it.to_owned()));
        Ok(key.zip(EventId::parse(pdu.event_id().as_str()).ok()).map(Some))
    }

    fn resolve(
        &self,
        first: StateNum,
        (differing, conflict): (&Differing, &[StateMap]),
    ) -> Result<Option<Resolution>, StoreError> {
        let nodes = self.edit.states(self.edit.room_num());
        let fetch = |event_id: &EventId| self.or_note(self.fetch(event_id));
        let unconflicted = |event_type: &str, state_key: &str| {
            let key = Key::of_state(event_type, state_key);
            if differing.contains_key(&key) {
                return None;
            }
            match self.or_note(map::get(&nodes, first.root(), key))? {
                Value::Event { event, .. } => self.or_note(self.event_id(EventNum(event))),
                Value::Server { .. } => None,
            }
        };
        let in_unconflicted_chain = |candidates: &BTreeSet<OwnedEventId>| {
            let all = self.or_note(map::entries(&nodes, first.root(), None, usize::MAX).map(Some));
            let shared = all.unwrap_or_default().into_iter().filter_map(|(key, value)| {
                let Value::Event { event, .. } = value else { return None };
                let shared = !differing.contains_key(&key);
                shared.then(|| self.or_note(self.event_id(EventNum(event)))).flatten()
            });
            resolution::found_in_chains(self.version.rules(), candidates, shared, &fetch)
        };
        let question = Conflict {
            states: conflict,
            unconflicted: &unconflicted,
            in_unconflicted_chain: &in_unconflicted_chain,
        };
        let answer = resolution::resolve_conflict(self.version.rules(), &question, &fetch);
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        match answer {
            Ok(resolution) => Ok(Some(resolution)),
            Err(error) => {
                let room = &self.edit.room.room_id;
                warn!(room.id = %room, %error, "states cannot be resolved; what follows is hidden");
                Ok(None)
            }
        }
    }

    fn or_note<T>(&self, outcome: Result<Option<T>, StoreError>) -> Option<T> {
        outcome.unwrap_or_else(|failure| {
            self.failure.set(Some(failure));
            None
        })
    }

    fn event_id(&self, event: EventNum) -> Result<Option<OwnedEventId>, StoreError> {
        let body = self.edit.body(self.edit.room_num(), event)?;
        Ok(EventId::parse(body.event_id).ok())
    }

    fn fetch(&self, event_id: &EventId) -> Result<Option<Arc<StateEvent>>, StoreError> {
        let held = self.edit.event_num(self.edit.room_num(), event_id.as_str())?;
        let Some(event) = held else { return Ok(None) };
        let Some(pdu) = parse_held(self.edit, event, self.version)? else { return Ok(None) };
        let rejected = self.edit.node(event)?.flags.rejected;
        Ok(state_event(&pdu, rejected).map(Arc::new))
    }
}

/// An event in resolution's words. Nothing if its ids are none.
pub(super) fn state_event(pdu: &Pdu, rejected: bool) -> Option<StateEvent> {
    #[derive(Deserialize)]
    struct Content {
        content: Box<RawValue>,
    }
    let ids = |ids: &[pdu::EventId]| -> Option<Vec<OwnedEventId>> {
        ids.iter().map(|it| it.as_ruma().map(ToOwned::to_owned)).collect()
    };
    let Content { content } = serde_json::from_str(&pdu.canonical_json()).ok()?;
    Some(StateEvent {
        event_id: pdu.event_id().as_ruma()?.to_owned(),
        room_id: pdu.room_id().as_ruma()?.to_owned(),
        sender: pdu.sender().as_ruma()?.to_owned(),
        event_type: pdu.event_type().into(),
        state_key: pdu.state_key().map(str::to_owned),
        origin_server_ts: resolution::timestamp(pdu.origin_server_ts()),
        depth: pdu.depth(),
        content,
        prev_events: ids(pdu.prev_events())?,
        auth_events: ids(pdu.auth_events())?,
        redacts: None,
        rejected,
    })
}

//! Makes one state of several where branches of the graph meet: converts stored states and events
//! for [`crate::state::resolution`], and writes the resolved state.
//!
//! Only the entries in which the states differ are read. Finding them costs no more than their
//! number, because stored states share the nodes that they have in common.

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
    remains,
    state::{self, Base, MapEntry},
    stored::{parse_stored, read_stored, version_of},
};
use crate::{
    pdu::{self, Event, Pdu, RoomVersion},
    state::{
        map::{self, MapKey, Value},
        resolution::{self, Conflict, Resolution, StateEvent, StateKey, StateMap},
    },
    store::{Edit, EventNum, StateNum, StoreError, View},
};

/// Resolves several distinct states and writes the result. `None` if they cannot be resolved, or not
/// yet: the state after what follows is then not known, which hides it. If an event that is not
/// stored is needed, `event` waits for it: without it, the result could differ from that of other
/// servers, for good.
pub(super) fn merge(
    edit: &mut Edit<'_>,
    event: EventNum,
    states: &[StateNum],
) -> Result<Option<StateNum>, StoreError> {
    let version = version_of(edit)?;
    let Some((first, _)) = states.split_first() else { return Ok(None) };
    let differing = differing(edit, states)?;
    let events = EventSource { edit, version, failure: Cell::new(None) };
    let Some(conflict) = events.conflict(states, &differing)? else { return Ok(None) };
    let resolved = events.resolve(*first, &differing, &conflict)?;
    let Some(Resolution { state, missing }) = resolved else { return Ok(None) };
    if is_waiting(edit, event, &missing)? {
        return Ok(None);
    }
    let mut entries = Vec::new();
    let mut removals = Vec::new();
    let mut open = unreadable(edit, version, &differing)?;
    for (event_type, state_key) in conflict.iter().flat_map(StateMap::keys).collect::<BTreeSet<_>>()
    {
        let key = MapKey::of_state(event_type, state_key);
        match state.get(&(event_type.clone(), state_key.clone())) {
            None if open.contains_key(&key) => {}
            None => removals.push(key),
            Some(event_id) => {
                let Some(event) = edit.event_num(edit.room_num(), event_id.as_str())? else {
                    return Ok(None);
                };
                let read = read_stored(edit, event, version)?;
                entries.extend(MapEntry::of(event, &read));
                open.remove(&key);
            }
        }
    }
    entries.extend(open.into_values());
    let base = Base { share: Some(*first), before: None };
    state::write(edit, base, &entries, &removals).map(Some)
}

/// Notes the missing events that `event` waits for, and returns whether there are any. An event
/// that is stored but unreadable is not waited for: it will not become readable.
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

/// For each key in which some of the states differ, the event that each state has under it.
type Differing = BTreeMap<MapKey, Vec<Option<EventNum>>>;

fn differing(edit: &Edit<'_>, states: &[StateNum]) -> Result<Differing, StoreError> {
    let nodes = edit.states(edit.room_num());
    let event = |value: Option<Value>| match value {
        Some(Value::Event { event, .. }) => Some(EventNum(event)),
        Some(Value::Server { .. }) | None => None,
    };
    let mut differing = Differing::new();
    let Some((first, others)) = states.split_first() else { return Ok(differing) };
    for (position, other) in (1..).zip(others) {
        for difference in map::diff(&nodes, first.root(), other.root())? {
            let key = difference.key;
            let in_first = event(difference.left);
            let in_other = event(difference.right);
            if in_first.or(in_other).is_none() {
                continue;
            }
            // A state that does not differ from the first has the same event as the first.
            let values = differing.entry(key).or_insert_with(|| vec![in_first; states.len()]);
            if let Some(value) = values.get_mut(position) {
                *value = in_other;
            }
        }
    }
    Ok(differing)
}

/// For each key that differs, the unreadable event with the smallest id that some state has under
/// it. Resolution does not know unreadable events, so any readable event replaces them. Where
/// resolution leaves a key empty, the unreadable event stays, because its absence (no access control
/// list, say) could grant more.
fn unreadable(
    edit: &Edit<'_>,
    version: RoomVersion,
    differing: &Differing,
) -> Result<BTreeMap<MapKey, MapEntry>, StoreError> {
    let mut found = BTreeMap::new();
    if edit.room.unreadable == 0 {
        return Ok(found);
    }
    for (key, values) in differing {
        let mut smallest: Option<(String, MapEntry)> = None;
        for event in values.iter().flatten() {
            let read = read_stored(edit, *event, version)?;
            let event_id = read.event_id().as_str();
            let is_smallest = smallest.as_ref().is_none_or(|(it, _)| event_id < it.as_str());
            if read.pdu().is_none() && is_smallest {
                smallest = MapEntry::of(*event, &read).map(|it| (event_id.to_owned(), it));
            }
        }
        found.extend(smallest.map(|(_, entry)| (*key, entry)));
    }
    Ok(found)
}

/// Looks up events of the room for resolution.
struct EventSource<'e, 's> {
    edit: &'e Edit<'s>,
    version: RoomVersion,
    /// A look-up during resolution cannot return an error: the last one is kept here.
    failure: Cell<Option<StoreError>>,
}

impl EventSource<'_, '_> {
    /// Converts the differing entries of each state for resolution, without unreadable events.
    /// `None` if an event in a state is no state event.
    fn conflict(
        &self,
        states: &[StateNum],
        differing: &Differing,
    ) -> Result<Option<Vec<StateMap>>, StoreError> {
        let mut maps = vec![StateMap::new(); states.len()];
        for values in differing.values() {
            // Several states mostly have the same event under a key: read it once.
            let mut entries = BTreeMap::new();
            for event in values.iter().flatten() {
                if entries.contains_key(event) {
                    continue;
                }
                let entry = match read_stored(self.edit, *event, self.version)? {
                    Event::Readable(pdu) => {
                        let Some(entry) = state_entry(&pdu) else { return Ok(None) };
                        Some(entry)
                    }
                    Event::Unreadable(_) => None,
                };
                entries.insert(*event, entry);
            }
            for (map, event) in maps.iter_mut().zip(values) {
                map.extend(event.and_then(|it| entries.get(&it).cloned().flatten()));
            }
        }
        Ok(Some(maps))
    }

    /// Resolves the differing entries. `None` if they cannot be resolved.
    fn resolve(
        &self,
        first: StateNum,
        differing: &Differing,
        conflict: &[StateMap],
    ) -> Result<Option<Resolution>, StoreError> {
        let nodes = self.edit.states(self.edit.room_num());
        let fetch = |event_id: &EventId| self.or_note(self.fetch(event_id));
        let unconflicted = |event_type: &str, state_key: &str| {
            let key = MapKey::of_state(event_type, state_key);
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
                warn!(room.id = %room, %error, "the states of a room cannot be resolved; later events are hidden");
                Ok(None)
            }
        }
    }

    /// The outcome of a look-up; `None`, with the failure kept, if it failed.
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
        let Some(pdu) = parse_stored(self.edit, event, self.version)? else { return Ok(None) };
        let rejected = self.edit.node(event)?.flags.rejected;
        let Some(converted) = state_event(&pdu, rejected) else { return Ok(None) };
        remains::complete(self.edit, event, converted).map(|it| Some(Arc::new(it)))
    }
}

/// The state entry that an event sets; `None` if it is no state event, or if its id is not valid.
fn state_entry(pdu: &Pdu) -> Option<(StateKey, OwnedEventId)> {
    let state_key = pdu.state_key()?;
    let event_id = EventId::parse(pdu.event_id().as_str()).ok()?;
    Some(((pdu.event_type().to_owned(), state_key.to_owned()), event_id))
}

/// Converts an event for state resolution; `None` if one of its ids is not a valid Matrix id.
pub(super) fn state_event(pdu: &Pdu, rejected: bool) -> Option<StateEvent> {
    #[derive(Deserialize)]
    struct ContentField {
        content: Box<RawValue>,
    }
    let ids = |ids: &[pdu::EventId]| -> Option<Vec<OwnedEventId>> {
        ids.iter().map(|it| it.as_ruma().map(ToOwned::to_owned)).collect()
    };
    let ContentField { content } = serde_json::from_str(&pdu.canonical_json()).ok()?;
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

//! Writing states: what of a state event the map keeps, and the facts and counts beside it.

use std::collections::{BTreeMap, BTreeSet};

use super::held::{read_held, version_of};
use crate::{
    pdu::Event,
    state::map::{self, Key, Membership, Value},
    store::{Edit, EventNum, GivenEvent, StateFacts, StateNum, StoreError, View},
    visibility::HistoryVisibility,
};

/// Makes a state of the events that came with `event` as such. Nothing while one of them is not
/// held: `event` then waits for it; and nothing if they cannot be a state.
pub(super) fn adopt_given(
    edit: &mut Edit<'_>,
    event: EventNum,
    given: &[GivenEvent],
) -> Result<Option<StateNum>, StoreError> {
    let Some(events) = all_held(edit, event, given)? else { return Ok(None) };
    let version = version_of(edit)?;
    // Most of it will be what the room's current state has: share that, and take out the rest.
    let share = edit.room.current_state;
    let shared = match share {
        Some(share) => map::entries(&edit.states(edit.room_num()), share.root(), None, usize::MAX)?,
        None => Vec::new(),
    };
    let of_events = shared.into_iter().filter_map(|(key, value)| match value {
        Value::Event { event, .. } => Some((EventNum(event), key)),
        Value::Server { .. } => None,
    });
    let mut shared: BTreeMap<EventNum, Key> = of_events.collect();
    let (mut kept, mut entries) = (BTreeSet::new(), Vec::new());
    for event in events {
        let key = match shared.remove(&event) {
            Some(key) => key,
            None => {
                let read = read_held(edit, event, version)?;
                match Entry::of(event, &read) {
                    Some(entry) => {
                        let key = entry.key();
                        entries.push(entry);
                        key
                    }
                    None if read.pdu().is_some() => return Ok(None),
                    // For what it stands cannot be read: then for nothing.
                    None => continue,
                }
            }
        };
        if !kept.insert(key) {
            return Ok(None);
        }
    }
    let removals: Vec<Key> = shared.into_values().filter(|it| !kept.contains(it)).collect();
    write(edit, Base { share, before: None }, &entries, &removals).map(Some)
}

/// The numbers of a given state's events. Nothing while one of them is not held: `event` then waits
/// for it.
fn all_held(
    edit: &mut Edit<'_>,
    event: EventNum,
    given: &[GivenEvent],
) -> Result<Option<Vec<EventNum>>, StoreError> {
    let mut events = Vec::with_capacity(given.len());
    let mut missing: Option<(Key, &str)> = None;
    for it in given {
        match it {
            GivenEvent::Held(held) => events.push(*held),
            GivenEvent::Named(event_id) => match edit.event_num(edit.room_num(), event_id)? {
                Some(held) => events.push(held),
                None => missing = missing.max(Some((Key::of_state("", event_id), event_id))),
            },
        }
    }
    let Some((_, event_id)) = missing else { return Ok(Some(events)) };
    // One is enough: when it comes, the others are looked for again. It is chosen by a hash, so that
    // in whatever order they come, it seldom is one of the first.
    edit.put_wanted(event_id, event);
    Ok(None)
}

/// A state event, with what the state map keeps of it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    event: EventNum,
    event_type: String,
    state_key: String,
    membership: Membership,
    history_visibility: HistoryVisibility,
}

impl Entry {
    /// Nothing if the event is no state event. Of an unreadable one, what grants least.
    pub(super) fn of(event: EventNum, read: &Event) -> Option<Self> {
        let (event_type, state_key) = read.state_entry()?;
        let content = |member: &str| read.pdu()?.content().get(member)?.as_str();
        let membership = match (event_type, content("membership")) {
            ("m.room.member", Some("join")) => Membership::Joined,
            ("m.room.member", Some("invite")) => Membership::Invited,
            ("m.room.member", _) => Membership::Outside,
            _ => Membership::NotAMember,
        };
        let history_visibility = match read {
            Event::Readable(_) => HistoryVisibility::parse(content("history_visibility")),
            Event::Unreadable(_) => HistoryVisibility::Joined,
        };
        let (event_type, state_key) = (event_type.to_owned(), state_key.to_owned());
        Some(Self { event, event_type, state_key, membership, history_visibility })
    }

    fn key(&self) -> Key {
        Key::of_state(&self.event_type, &self.state_key)
    }

    fn value(&self) -> Value {
        Value::Event { event: self.event.0, membership: self.membership }
    }

    /// The server whose member counts the event changes.
    fn server(&self) -> Option<&str> {
        let server = self.state_key.split_once(':').map(|(_, server)| server);
        server.filter(|_| self.membership != Membership::NotAMember)
    }
}

/// What a new state is made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    /// The state to change.
    pub(super) share: Option<StateNum>,
    /// The state before, to be kept beside the new one.
    pub(super) before: Option<StateNum>,
}

/// Writes a state: that of `base` with some entries set and some taken out. Nothing new is
/// written when that changes nothing.
pub(super) fn write(
    edit: &mut Edit<'_>,
    base: Base,
    entries: &[Entry],
    removals: &[Key],
) -> Result<StateNum, StoreError> {
    let room = edit.room_num();
    let (mut visibility, mut events) = (HistoryVisibility::Shared, 0);
    if let Some(share) = base.share {
        let facts = edit.state_facts(room, share)?;
        (visibility, events) = (facts.history_visibility, facts.events);
    }
    let visibility_key = Key::of_state("m.room.history_visibility", "");
    let mut members = Members::default();
    let nodes = edit.states(room);
    let mut changed = map::Edit::new(&nodes, base.share.map(StateNum::root));
    for key in removals {
        if let Some(value) = changed.get(*key)? {
            members.leave(server_of(edit, value)?.as_deref(), value);
            changed.set(*key, None)?;
            events -= 1;
            if *key == visibility_key {
                visibility = HistoryVisibility::Shared;
            }
        }
    }
    for entry in entries {
        match changed.get(entry.key())? {
            Some(old) => members.leave(entry.server(), old),
            None => events += 1,
        }
        members.enter(entry.server(), entry.value());
        changed.set(entry.key(), Some(entry.value()))?;
        if entry.key() == visibility_key {
            visibility = entry.history_visibility;
        }
    }
    members.apply(&mut changed)?;
    if let Some(share) = base.share
        && !changed.is_changed()
    {
        return Ok(share);
    }
    let written = changed.finish(edit.next_state().0)?;
    let facts = StateFacts { before: base.before, history_visibility: visibility, events };
    Ok(edit.add_state(facts, &written))
}

/// The server whose member counts a held state event has changed.
fn server_of(edit: &Edit<'_>, value: Value) -> Result<Option<String>, StoreError> {
    let Value::Event { event, membership } = value else { return Ok(None) };
    if membership == Membership::NotAMember {
        return Ok(None);
    }
    let read = read_held(edit, EventNum(event), version_of(edit)?)?;
    Ok(Entry::of(EventNum(event), &read).and_then(|it| it.server().map(str::to_owned)))
}

/// The same state with another one noted as the state before it.
pub(super) fn with_before(
    edit: &mut Edit<'_>,
    state: StateNum,
    before: Option<StateNum>,
) -> Result<StateNum, StoreError> {
    let room = edit.room_num();
    let facts = edit.state_facts(room, state)?;
    if facts.before == before {
        return Ok(state);
    }
    let root = edit.state_node(room, state.root())?;
    Ok(edit.add_state(StateFacts { before, ..facts }, &[(*root).clone()]))
}

/// How the member counts of servers change.
#[derive(Default)]
struct Members(BTreeMap<String, (i64, i64)>);

impl Members {
    fn enter(&mut self, server: Option<&str>, value: Value) {
        self.add(server, value, 1);
    }

    fn leave(&mut self, server: Option<&str>, value: Value) {
        self.add(server, value, -1);
    }

    fn add(&mut self, server: Option<&str>, value: Value, by: i64) {
        let (Some(server), Value::Event { membership, .. }) = (server, value) else { return };
        let change = self.0.entry(server.to_owned()).or_default();
        match membership {
            Membership::Joined => change.0 += by,
            Membership::Invited => change.1 += by,
            Membership::Outside | Membership::NotAMember => {}
        }
    }

    fn apply<N: map::Nodes>(self, state: &mut map::Edit<'_, N>) -> Result<(), N::Error> {
        for (server, (joined_by, invited_by)) in self.0 {
            let key = Key::of_server(&server);
            let (joined, invited) = match state.get(key)? {
                Some(Value::Server { joined, invited }) => (joined, invited),
                Some(Value::Event { .. }) | None => (0, 0),
            };
            let moved = |count: u32, by: i64| {
                u32::try_from(i64::from(count).saturating_add(by)).unwrap_or(0)
            };
            let (joined, invited) = (moved(joined, joined_by), moved(invited, invited_by));
            let value = (joined > 0 || invited > 0).then_some(Value::Server { joined, invited });
            state.set(key, value)?;
        }
        Ok(())
    }
}

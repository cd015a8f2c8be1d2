//! Writing states: the entry of a state event in the state map, and the facts and member counts that
//! are stored with a state.

use std::collections::{BTreeMap, BTreeSet};

use super::stored::{read_stored, version_of};
use crate::{
    pdu::Event,
    state::map::{self, MapEdit, MapKey, Membership, Value},
    store::{Edit, EventNum, GivenEvent, StateFacts, StateNum, StoreError, View},
    visibility::HistoryVisibility,
};

/// Makes a state of the events that are given as the state after `event`. `None` while one of them
/// is not stored (`event` then waits for it), and if they cannot be a state.
pub(super) fn adopt_given(
    edit: &mut Edit<'_>,
    event: EventNum,
    given: &[GivenEvent],
) -> Result<Option<StateNum>, StoreError> {
    let Some(events) = all_held(edit, event, given)? else { return Ok(None) };
    let version = version_of(edit)?;
    // Most entries are likely to be in the room's current state: share it, remove what differs.
    let share = edit.room.current_state;
    let shared = match share {
        Some(share) => map::entries(&edit.states(edit.room_num()), share.root(), None, usize::MAX)?,
        None => Vec::new(),
    };
    let of_events = shared.into_iter().filter_map(|(key, value)| match value {
        Value::Event { event, .. } => Some((EventNum(event), key)),
        Value::Server { .. } => None,
    });
    let mut shared: BTreeMap<EventNum, MapKey> = of_events.collect();
    let mut kept = BTreeSet::new();
    let mut entries = Vec::new();
    for event in events {
        let key = match shared.remove(&event) {
            Some(key) => key,
            None => {
                let read = read_stored(edit, event, version)?;
                match MapEntry::of(event, &read) {
                    Some(entry) => {
                        let key = entry.key();
                        entries.push(entry);
                        key
                    }
                    None if read.pdu().is_some() => return Ok(None),
                    // An unreadable event without a readable type and state key sets no entry.
                    None => continue,
                }
            }
        };
        if !kept.insert(key) {
            return Ok(None);
        }
    }
    let removals: Vec<MapKey> = shared.into_values().filter(|it| !kept.contains(it)).collect();
    write(edit, Base { share, before: None }, &entries, &removals).map(Some)
}

/// The numbers of a given state's events. `None` while one of them is not stored: `event` then
/// waits for it.
fn all_held(
    edit: &mut Edit<'_>,
    event: EventNum,
    given: &[GivenEvent],
) -> Result<Option<Vec<EventNum>>, StoreError> {
    let mut events = Vec::with_capacity(given.len());
    let mut missing: Option<(MapKey, &str)> = None;
    for it in given {
        match it {
            GivenEvent::Held(held) => events.push(*held),
            GivenEvent::Named(event_id) => match edit.event_num(edit.room_num(), event_id)? {
                Some(held) => events.push(held),
                None => missing = missing.max(Some((MapKey::of_state("", event_id), event_id))),
            },
        }
    }
    let Some((_, event_id)) = missing else { return Ok(Some(events)) };
    // One is enough: when it is stored, the others are looked up again. It is chosen by a hash, so
    // that it is seldom among the first to be stored, whatever their order.
    edit.put_wanted(event_id, event);
    Ok(None)
}

/// A state event as an entry of the state map.
#[derive(Clone, Debug)]
pub(super) struct MapEntry {
    event: EventNum,
    event_type: String,
    state_key: String,
    membership: Membership,
    history_visibility: HistoryVisibility,
}

impl MapEntry {
    /// The entry of an event; `None` if it is no state event. An unreadable event grants the least:
    /// no membership, and history for joined members only.
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
        Some(Self {
            event,
            event_type: event_type.to_owned(),
            state_key: state_key.to_owned(),
            membership,
            history_visibility,
        })
    }

    fn key(&self) -> MapKey {
        MapKey::of_state(&self.event_type, &self.state_key)
    }

    fn value(&self) -> Value {
        Value::Event { event: self.event.0, membership: self.membership }
    }

    /// The server whose member counts the event changes; `None` if it is no member event.
    fn server(&self) -> Option<&str> {
        let server = self.state_key.split_once(':').map(|(_, server)| server);
        server.filter(|_| self.membership != Membership::NotAMember)
    }
}

/// The states that a new state is made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base {
    /// The state to change; `None` starts from the empty state.
    pub(super) share: Option<StateNum>,
    /// The state before the event, to be stored with the new one.
    pub(super) before: Option<StateNum>,
}

/// Writes a state: that of `base` with some entries set and some removed. If that changes nothing,
/// nothing is written and the number of the base is returned.
pub(super) fn write(
    edit: &mut Edit<'_>,
    base: Base,
    entries: &[MapEntry],
    removals: &[MapKey],
) -> Result<StateNum, StoreError> {
    let room = edit.room_num();
    let mut facts = match base.share {
        Some(share) => edit.state_facts(room, share)?,
        None => {
            StateFacts { before: None, history_visibility: HistoryVisibility::Shared, events: 0 }
        }
    };
    facts.before = base.before;
    let visibility_key = MapKey::of_state("m.room.history_visibility", "");
    let mut members = MemberChanges::default();
    let nodes = edit.states(room);
    let mut changed = MapEdit::new(&nodes, base.share.map(StateNum::root));
    for key in removals {
        if let Some(value) = changed.get(*key)? {
            members.leave(server_of(edit, value)?.as_deref(), value);
            changed.set(*key, None)?;
            facts.events -= 1;
            if *key == visibility_key {
                facts.history_visibility = HistoryVisibility::Shared;
            }
        }
    }
    for entry in entries {
        match changed.get(entry.key())? {
            Some(old) => members.leave(entry.server(), old),
            None => facts.events += 1,
        }
        members.enter(entry.server(), entry.value());
        changed.set(entry.key(), Some(entry.value()))?;
        if entry.key() == visibility_key {
            facts.history_visibility = entry.history_visibility;
        }
    }
    members.apply(&mut changed)?;
    if let Some(share) = base.share
        && !changed.is_changed()
    {
        return Ok(share);
    }
    let written = changed.finish(edit.next_state().0)?;
    Ok(edit.add_state(facts, &written))
}

/// The server whose member counts a stored state event has changed; `None` if it is no member
/// event.
fn server_of(edit: &Edit<'_>, value: Value) -> Result<Option<String>, StoreError> {
    let Value::Event { event, membership } = value else { return Ok(None) };
    if membership == Membership::NotAMember {
        return Ok(None);
    }
    let read = read_stored(edit, EventNum(event), version_of(edit)?)?;
    Ok(MapEntry::of(EventNum(event), &read).and_then(|it| it.server().map(str::to_owned)))
}

/// Writes a state again with another state before it, unless it has that already.
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

/// Changes to the member counts of servers, by server name.
#[derive(Default)]
struct MemberChanges(BTreeMap<String, CountChange>);

#[derive(Default)]
struct CountChange {
    joined: i64,
    invited: i64,
}

impl MemberChanges {
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
            Membership::Joined => change.joined += by,
            Membership::Invited => change.invited += by,
            Membership::Outside | Membership::NotAMember => {}
        }
    }

    fn apply<N: map::Nodes>(self, state: &mut MapEdit<'_, N>) -> Result<(), N::Error> {
        for (server, change) in self.0 {
            let key = MapKey::of_server(&server);
            let (joined, invited) = match state.get(key)? {
                Some(Value::Server { joined, invited }) => (joined, invited),
                Some(Value::Event { .. }) | None => (0, 0),
            };
            // Counts of a damaged store may be too small; they are compared with the members when
            // the store is verified.
            let changed = |count: u32, by: i64| {
                u32::try_from(i64::from(count).saturating_add(by)).unwrap_or(0)
            };
            let joined = changed(joined, change.joined);
            let invited = changed(invited, change.invited);
            let value = (joined > 0 || invited > 0).then_some(Value::Server { joined, invited });
            state.set(key, value)?;
        }
        Ok(())
    }
}

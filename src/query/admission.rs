//! Whether a caller may ask about a room at all. Reads the facts from the states that decide;
//! `access` decides on them.

use serde_json::Value;

use super::{Asker, QueryError};
use crate::{
    access::{self, AccessRefusal, acl_allows},
    ingest,
    pdu::{Pdu, RoomVersion},
    state::map::{self, MapKey},
    store::{
        ContentKey, Deriving as _, EventNode, EventNum, ExpectedQuestion, NotServedReason, Room,
        RoomNum, StateNum, Store, StoreError, View,
    },
};

/// The most last known states that are looked at for one question, while the current state is not
/// known. If a room has more, no other server may ask about it.
const MAX_DECIDING: usize = 1_000;
/// The most forward extremities that are looked at along with them, those that arrived last. The
/// current state is resolved from as many.
const MAX_EXTREMITIES: usize = 256;

/// A room that is held.
pub(super) struct FoundRoom {
    pub(super) number: RoomNum,
    /// See [`Store::room_mark`].
    pub(super) mark: u64,
    pub(super) record: Room,
    pub(super) version: RoomVersion,
}

/// Users of one server in a state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServerMembers {
    pub(super) joined: u32,
    pub(super) invited: u32,
}

/// Finds a room for a caller, who must be allowed to ask about it. `expected` says what the question
/// will read of the room; it is called only if that helps.
pub(super) fn admit<'q>(
    store: &Store,
    room_id: &str,
    asker: &Asker,
    expected: impl FnOnce() -> ExpectedQuestion<'q>,
) -> Result<FoundRoom, QueryError> {
    match asker {
        Asker::Internal => {
            let room = find_internal(store, room_id)?;
            if store.reads_ahead() {
                store.expect_question(room.number, &room.record, &expected())?;
            }
            Ok(room)
        }
        Asker::Server { origin, destination } => {
            let number = store.room_num(room_id)?;
            if let Some(reason) = not_served_reason_of(store, room_id, number)? {
                return Err(QueryError::NotServed(reason));
            }
            let number = number.ok_or(QueryError::NotAllowed(AccessRefusal::RoomUnknown))?;
            let room = found(store, number)?;
            if store.reads_ahead() {
                let server = MapKey::of_server(origin);
                let access = vec![acl_key(), server, MapKey::of_server(destination)];
                let expected = ExpectedQuestion { access, server: Some(server), ..expected() };
                store.expect_question(number, &room.record, &expected)?;
            }
            match refusal(store, &room, origin, destination)? {
                None => Ok(room),
                Some(refusal) => Err(QueryError::NotAllowed(refusal)),
            }
        }
    }
}

/// Why a room is not served to other servers, whoever asks; `None` if it is served. The room need
/// not be held.
pub(super) fn not_served_reason(
    store: &Store,
    room_id: &str,
) -> Result<Option<NotServedReason>, StoreError> {
    not_served_reason_of(store, room_id, store.room_num(room_id)?)
}

/// The same for a room whose number was looked up; `None` if the room is not held.
fn not_served_reason_of(
    store: &Store,
    room_id: &str,
    number: Option<RoomNum>,
) -> Result<Option<NotServedReason>, StoreError> {
    if let Some(reason) = store.not_served_reason(room_id) {
        return Ok(Some(reason));
    }
    let is_deriving = number.map_or(Ok(false), |it| store.is_deriving(it))?;
    Ok(is_deriving.then_some(NotServedReason::Deriving))
}

fn acl_key() -> MapKey {
    MapKey::of_state("m.room.server_acl", "")
}

/// Finds a room for an internal caller.
pub(super) fn find_internal(store: &Store, room_id: &str) -> Result<FoundRoom, QueryError> {
    find(store, room_id)?.ok_or_else(|| QueryError::RoomUnknown(room_id.to_owned()))
}

fn find(store: &Store, room_id: &str) -> Result<Option<FoundRoom>, StoreError> {
    store.room_num(room_id)?.map(|it| found(store, it)).transpose()
}

fn found(store: &Store, number: RoomNum) -> Result<FoundRoom, StoreError> {
    let record = store.room(number)?;
    let version = RoomVersion::parse(&record.room_version)
        .map_err(|_| StoreError::version_unknown(&record))?;
    Ok(FoundRoom { number, mark: store.room_mark(number), record, version })
}

/// The states that decide whether a server may ask: each of them has to allow it. `None` if no
/// current state was ever known, or if there are too many to look at.
///
/// This is the current state. While that is not known, it is the states that were known last, and
/// the known states of forward extremities that these do not cover. So what became known since can
/// only take rights away.
pub(super) fn deciding_states(
    store: &Store,
    room: &FoundRoom,
) -> Result<Option<Vec<StateNum>>, StoreError> {
    if let Some(current) = room.record.current_state {
        return Ok(Some(vec![current]));
    }
    let extremities = store.extremities(room.number, MAX_EXTREMITIES)?;
    // The record is read again, after the extremities: it covers those that got followers since. The
    // number is looked up again because that is never answered from the memory of an engine.
    if store.room_num(&room.record.room_id)? != Some(room.number) {
        return Ok(None);
    }
    let record = store.room(room.number)?;
    if let Some(current) = record.current_state {
        return Ok(Some(vec![current]));
    }
    if record.last_known.is_empty() || record.last_known.len() > MAX_DECIDING {
        return Ok(None);
    }
    let mut states = record.last_known.clone();
    for extremity in extremities {
        let state = extremity.state_after;
        states.extend(state.filter(|it| !states.contains(it) && !record.known_over.contains(it)));
    }
    Ok(Some(states))
}

/// The reason why a server may not ask about a room now; `None` if it may.
pub(super) fn refusal(
    store: &Store,
    room: &FoundRoom,
    origin: &str,
    destination: &str,
) -> Result<Option<AccessRefusal>, StoreError> {
    let Some(states) = deciding_states(store, room)? else {
        return Ok(Some(AccessRefusal::StateUnknown));
    };
    for state in states {
        let facts = access::ServerFacts {
            acl_allows: is_allowed_by_acl(store, room, state, origin)?,
            origin_joined: members(store, room.number, state, origin)?.joined > 0,
            destination_joined: members(store, room.number, state, destination)?.joined > 0,
        };
        if let Err(refusal) = access::check(facts) {
            return Ok(Some(refusal));
        }
    }
    Ok(None)
}

/// Counts the users of a server in a state.
pub(super) fn members(
    store: &Store,
    room: RoomNum,
    state: StateNum,
    server: &str,
) -> Result<ServerMembers, StoreError> {
    let value = map::get(&store.states(room), state.root(), MapKey::of_server(server))?;
    Ok(match value {
        Some(map::Value::Server { joined, invited }) => ServerMembers { joined, invited },
        Some(map::Value::Event { .. }) | None => ServerMembers::default(),
    })
}

/// Whether the access control list of a state allows a server; a state without one allows all.
///
/// A redacted list counts with the content that redaction left, an unreadable one with the content
/// null.
fn is_allowed_by_acl(
    store: &Store,
    room: &FoundRoom,
    state: StateNum,
    server: &str,
) -> Result<bool, StoreError> {
    let value = map::get(&store.states(room.number), state.root(), acl_key())?;
    let Some(map::Value::Event { event, .. }) = value else { return Ok(true) };
    let event = EventNum(event);
    let node = store
        .topology(room.number)
        .node(event)?
        .ok_or_else(|| StoreError::missing("state event", b"m.room.server_acl"))?;
    if node.flags.unreadable {
        return Ok(acl_allows(&Value::Null, server));
    }
    let redacted = node.flags.redacted
        || node.flags.redaction_pending
        || is_redacted_by_ban(store, room, event, &node)?;
    let content = |text: &[u8]| {
        let mut pdu = Pdu::parse(text, room.version).ok()?;
        if redacted {
            pdu = pdu.redacted().ok()?;
        }
        serde_json::to_value(pdu.content()).ok()
    };
    let key = ContentKey { room: room.number, event, redacted };
    store.with_content(key, content, |it| acl_allows(it, server))
}

/// Whether a ban redacts a readable event. The event is read only if the room has such a ban.
pub(super) fn is_redacted_by_ban(
    store: &Store,
    room: &FoundRoom,
    event: EventNum,
    node: &EventNode,
) -> Result<bool, StoreError> {
    if node.flags.unreadable || !store.has_ban_redactions(&room.record.room_id) {
        return Ok(false);
    }
    let body = store.body(room.number, event)?;
    let pdu = Pdu::parse(&body.pdu, room.version)
        .map_err(|_| StoreError::corrupt("body", body.event_id.as_bytes()))?;
    Ok(ingest::is_redacted_by_ban(store, node.arrival, &pdu))
}

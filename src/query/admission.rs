//! Who may ask about a room at all: the facts, from the states that decide.

use serde_json::Value;

use super::{Asker, QueryError};
use crate::{
    access::{self, Refusal, acl_allows},
    pdu::{Pdu, RoomVersion},
    state::map::{self, Key},
    store::{ContentKey, EventNum, Room, RoomNum, StateNum, Store, StoreError, View},
};

/// While the current state is not known: most states that were known last and are looked at for one
/// question. Of a room with more, nobody may ask.
const MAX_DECIDING: usize = 1_000;
/// Most forward extremities that are looked at with them, those that arrived last: as many as the
/// current state is made of.
const MAX_EXTREMITIES: usize = 256;

/// A room that may be read.
pub(super) struct Found {
    pub(super) number: RoomNum,
    pub(super) room: Room,
    pub(super) version: RoomVersion,
}

/// Finds a room for an asker who may ask about it.
pub(super) fn admit(store: &Store, room_id: &str, asker: &Asker) -> Result<Found, QueryError> {
    let found = find(store, room_id)?;
    match (asker, found) {
        (Asker::Sister, Some(found)) => Ok(found),
        (Asker::Sister, None) => Err(QueryError::RoomUnknown(room_id.to_owned())),
        (Asker::Server { .. }, None) => Err(QueryError::NotAllowed(Refusal::RoomUnknown)),
        (Asker::Server { origin, destination }, Some(found)) => {
            may_ask(store, &found, (origin, destination))?.map_err(QueryError::NotAllowed)?;
            Ok(found)
        }
    }
}

pub(super) fn find(store: &Store, room_id: &str) -> Result<Option<Found>, StoreError> {
    let Some(number) = store.room_num(room_id)? else { return Ok(None) };
    let room = store.room(number)?;
    let version =
        RoomVersion::parse(&room.room_version).map_err(|_| StoreError::version_unknown(&room))?;
    Ok(Some(Found { number, room, version }))
}

/// The states that have to allow what a server asks: the current one. While that is not known,
/// those that were known last, and those of the forward extremities that these do not cover; so
/// what is known since can only take rights away. Nothing if no current state ever was known, or
/// there are too many to look at.
pub(super) fn deciding(store: &Store, found: &Found) -> Result<Option<Vec<StateNum>>, StoreError> {
    if let Some(current) = found.room.current_state {
        return Ok(Some(vec![current]));
    }
    let extremities = store.extremities(found.number, MAX_EXTREMITIES)?;
    // Read again, after them: one that is followed since then is among what was known last.
    let room = store.room(found.number)?;
    if let Some(current) = room.current_state {
        return Ok(Some(vec![current]));
    }
    if room.last_known.is_empty() || room.last_known.len() > MAX_DECIDING {
        return Ok(None);
    }
    let mut states = room.last_known.clone();
    for extremity in extremities {
        let state = extremity.state_after;
        states.extend(state.filter(|it| !states.contains(it) && !room.known_over.contains(it)));
    }
    Ok(Some(states))
}

/// Whether a server may ask about a room now: every state that decides has to allow it.
pub(super) fn may_ask(
    store: &Store,
    found: &Found,
    (origin, destination): (&str, &str),
) -> Result<Result<(), Refusal>, StoreError> {
    let Some(states) = deciding(store, found)? else { return Ok(Err(Refusal::StateUnknown)) };
    for state in states {
        let acl = (state, "m.room.server_acl");
        let acl_allows = state_event(store, found, acl, |content| acl_allows(content, origin))?;
        let joined = |server: &str| -> Result<bool, StoreError> {
            Ok(members(store, found.number, (state, server))?.0 > 0)
        };
        let checked = access::check(access::Facts {
            acl_allows: acl_allows.unwrap_or(true),
            origin_joined: joined(origin)?,
            destination_joined: joined(destination)?,
        });
        if checked.is_err() {
            return Ok(checked);
        }
    }
    Ok(Ok(()))
}

/// How many users of a server are joined and invited in a state.
pub(super) fn members(
    store: &Store,
    room: RoomNum,
    (state, server): (StateNum, &str),
) -> Result<(u32, u32), StoreError> {
    let value = map::get(&store.states(room), state.root(), Key::of_server(server))?;
    Ok(match value {
        Some(map::Value::Server { joined, invited }) => (joined, invited),
        Some(map::Value::Event { .. }) | None => (0, 0),
    })
}

/// Asks the content of a state event with an empty state key, as it stands now: of a redacted
/// event, what the redaction left; of an unreadable one, null. Nothing if the state has none.
fn state_event<T>(
    store: &Store,
    found: &Found,
    (state, event_type): (StateNum, &str),
    ask: impl FnOnce(&Value) -> T,
) -> Result<Option<T>, StoreError> {
    let key = Key::of_state(event_type, "");
    let value = map::get(&store.states(found.number), state.root(), key)?;
    let Some(map::Value::Event { event, .. }) = value else { return Ok(None) };
    let event = EventNum(event);
    let missing = || StoreError::missing("state event", event_type.as_bytes());
    let node = store.topology(found.number).node(event)?.ok_or_else(missing)?;
    if node.flags.unreadable {
        return Ok(Some(ask(&Value::Null)));
    }
    let redacted = node.flags.redacted || node.flags.redaction_pending;
    let content = |text: &[u8]| {
        let mut pdu = Pdu::parse(text, found.version).ok()?;
        if redacted {
            pdu = pdu.redacted().ok()?;
        }
        serde_json::to_value(pdu.content()).ok()
    };
    let key = ContentKey { room: found.number, event, redacted };
    store.with_content(key, content, ask).map(Some)
}

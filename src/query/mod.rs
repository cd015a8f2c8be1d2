//! Reading: one question, one file.
//!
//! Every answer is bounded, whatever the question says. For another server the order is: may it
//! ask at all, then are the parameters sound, then the work; so that who may not ask learns
//! nothing, not even about its own mistakes.

mod backfill;
mod events;
mod explain;
mod missing_events;
mod pages;
mod purged;
mod room;
mod serve;
mod state;
mod stats;
mod steadily;
mod withheld;

pub use backfill::{Backfill, backfill};
pub use events::{
    EventList, RoomEvent, RoomEvents, batch_get_events, list_events, list_state_after,
};
pub use explain::{Access, Explanation, explain_access};
pub use missing_events::{GetMissingEvents, get_missing_events};
pub use purged::{PurgedList, list_purged_events};
pub use room::{RoomList, RoomSummary, get_room, list_rooms};
pub use serve::{Page, ServedEvent};
pub use state::{StateEntry, StatePage, get_state};
pub use stats::{Stats, WideRoom, stats};
pub use steadily::steadily;
pub use withheld::{IdList, list_deleted_rooms, list_erased_members, list_erased_users};

use serde_json::Value;

use crate::{
    access::{self, Refusal, acl_allows},
    deadline::{Deadline, DeadlinePassed},
    graph,
    pdu::{Pdu, RoomVersion},
    state::map::{self, Key},
    store::{EventNum, PrevEvent, Room, RoomNum, StateNum, Store, StoreError, Topology, View},
};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A service of our own homeserver: nothing is refused or hidden.
    Sister,
    /// Another server.
    Server {
        /// Its authenticated name.
        origin: String,
        /// The name under which it addressed us.
        destination: String,
    },
}

/// Why a question is not answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The asking server may not ask; the reason is for us, not for it.
    #[error("this server may not ask about this room")]
    NotAllowed(Refusal),
    /// No such room, for a sister service.
    #[error("room {0} is not held")]
    RoomUnknown(String),
    /// No such event in the room.
    #[error("event {0} is not held in this room")]
    EventUnknown(String),
    /// The state asked for is not known.
    #[error("{0}")]
    StateUnknown(&'static str),
    /// No events to start from.
    #[error("give at least one event id to start from")]
    EventIdsMissing,
    /// An id that is longer than ids are.
    #[error("an event id has at most 255 characters")]
    EventIdInvalid,
    /// No limit.
    #[error("give a limit: how many events to answer with at most")]
    LimitMissing,
    /// A limit that is none.
    #[error("the limit must be at least 1")]
    LimitInvalid,
    /// Not a token that we gave.
    #[error("the page token is not one of this list's")]
    PageTokenInvalid,
    /// At each try, what was to be read was removed meanwhile.
    #[error("events of room {0} are being removed; ask again in a moment")]
    RoomChanges(String),
    /// Nobody waits for the answer any more.
    #[error(transparent)]
    Deadline(#[from] DeadlinePassed),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A room that may be read.
struct Found {
    number: RoomNum,
    room: Room,
    version: RoomVersion,
}

/// Finds a room for an asker who may ask about it.
fn admit(store: &Store, room_id: &str, asker: &Asker) -> Result<Found, QueryError> {
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

fn find(store: &Store, room_id: &str) -> Result<Option<Found>, StoreError> {
    let Some(number) = store.room_num(room_id)? else { return Ok(None) };
    let room = store.room(number)?;
    let version =
        RoomVersion::parse(&room.room_version).map_err(|_| StoreError::version_unknown(&room))?;
    Ok(Some(Found { number, room, version }))
}

/// Whether a server may ask about a room now.
fn may_ask(
    store: &Store,
    found: &Found,
    (origin, destination): (&str, &str),
) -> Result<Result<(), Refusal>, StoreError> {
    let Some(current) = found.room.current_state else { return Ok(Err(Refusal::StateUnknown)) };
    let acl = (current, "m.room.server_acl");
    let acl_allows = state_event(store, found, acl, |content| acl_allows(content, origin))?;
    let joined = |server: &str| -> Result<bool, StoreError> {
        Ok(members(store, found.number, (current, server))?.0 > 0)
    };
    Ok(access::check(access::Facts {
        acl_allows: acl_allows.unwrap_or(true),
        origin_joined: joined(origin)?,
        destination_joined: joined(destination)?,
    }))
}

/// How many users of a server are joined and invited in a state.
fn members(
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
/// event, what the redaction left. Nothing if the state has none.
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
    let redacted = node.flags.redacted || node.flags.redaction_pending;
    let content = |text: &[u8]| {
        let mut pdu = Pdu::parse(text, found.version).ok()?;
        if redacted {
            pdu = pdu.redacted().ok()?;
        }
        serde_json::to_value(pdu.content()).ok()
    };
    store.with_content((found.number, event, redacted), content, ask).map(Some)
}

/// The numbers of events that are held in a room, of those named; the others are ignored.
fn held(
    store: &Store,
    room: RoomNum,
    event_ids: &[String],
    at_most: usize,
) -> Result<Vec<EventNum>, StoreError> {
    let numbers = event_ids.iter().take(at_most).map(|it| store.event_num(room, it));
    numbers.filter_map(Result::transpose).collect()
}

/// A node as walks see it: outliers are not there at all. Asks the clock each time, which costs
/// nothing beside the lookup.
fn walkable(
    topology: &Topology<'_, Store>,
    event: EventNum,
    deadline: &Deadline,
) -> Result<Option<graph::Node<EventNum>>, QueryError> {
    deadline.check()?;
    let Some(node) = topology.node(event)?.filter(|it| !it.flags.outlier) else { return Ok(None) };
    let held = |edge: &PrevEvent| match edge {
        PrevEvent::Held(event) => Some(*event),
        PrevEvent::Missing => None,
    };
    Ok(Some(graph::Node {
        place: graph::Place { depth: node.depth, arrival: node.arrival },
        servable: !node.flags.rejected,
        has_gap: node.prev_events.contains(&PrevEvent::Missing),
        prev_events: node.prev_events.iter().filter_map(held).collect(),
    }))
}

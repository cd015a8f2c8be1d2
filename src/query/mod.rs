//! Reading: one question, one file.
//!
//! Every answer is bounded, whatever the question says. For another server the order is: may it
//! ask at all, then are the parameters sound, then the work; so that who may not ask learns
//! nothing, not even about its own mistakes.

mod admission;
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
mod unknown;
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
pub use stats::{Stats, UnknownRoom, WideRoom, stats};
pub use steadily::steadily;
pub use withheld::{IdList, list_deleted_rooms, list_erased_members, list_erased_users};

use std::fmt;

use admission::{Found, admit, find, may_ask, members};

use crate::{
    access::Refusal,
    deadline::{Deadline, DeadlinePassed},
    graph,
    store::{EventNode, EventNum, PrevEvent, RoomNum, Store, StoreError, Topology, View},
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

/// The greatest depth that is served. Rooms of versions 1 to 5 hold greater ones, which other
/// servers cannot read: for one of them they refuse the whole answer (CVE-2025-30355).
const MAX_SERVED_DEPTH: i64 = (1 << 53) - 1;

/// Why an event that is held is in no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Withheld {
    Outlier,
    Unreadable,
    Rejected,
    TooDeep,
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outlier => {
                "the event is an outlier: it is held, but not placed in the graph, so never served"
            }
            Self::Unreadable => {
                "the event breaks the format of its room version: it is walked through, but never \
                 served, and changes no state"
            }
            Self::Rejected => "the event was rejected: it is walked through, but never served",
            Self::TooDeep => {
                "the event claims a depth beyond 2^53 - 1, for which other servers would refuse \
                 the whole answer: it is walked through, but never served"
            }
        })
    }
}

fn withheld(node: &EventNode) -> Option<Withheld> {
    if node.flags.outlier {
        Some(Withheld::Outlier)
    } else if node.flags.unreadable {
        Some(Withheld::Unreadable)
    } else if node.flags.rejected {
        Some(Withheld::Rejected)
    } else {
        (node.depth > MAX_SERVED_DEPTH).then_some(Withheld::TooDeep)
    }
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
        servable: withheld(&node).is_none(),
        has_gap: node.prev_events.contains(&PrevEvent::Missing),
        prev_events: node.prev_events.iter().filter_map(held).collect(),
    }))
}

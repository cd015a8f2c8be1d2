//! Which of the events that are held a walk may walk through, and which of those are served.

use std::fmt;

use crate::{
    deadline::Deadline,
    graph::{Position, WalkNode},
    store::{EventNode, EventNum, PrevEvent, RoomNum, Store, StoreError, Topology, View},
};

use super::{QueryError, events::MAX_ID_BYTES};

/// The greatest depth that is served. Rooms of versions 1 to 5 hold greater ones, which other
/// servers cannot read: for one of them they refuse the whole answer (CVE-2025-30355).
const MAX_SERVED_DEPTH: i64 = (1 << 53) - 1;

/// The reason why an event that is held is never part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotServed {
    Outlier,
    Unreadable,
    Rejected,
    TooDeep,
}

impl fmt::Display for NotServed {
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

/// The reason why an event is never part of an answer; `None` if it may be.
pub(super) fn not_served(node: &EventNode) -> Option<NotServed> {
    if node.flags.outlier {
        Some(NotServed::Outlier)
    } else if node.flags.unreadable {
        Some(NotServed::Unreadable)
    } else if node.flags.rejected {
        Some(NotServed::Rejected)
    } else {
        (node.depth > MAX_SERVED_DEPTH).then_some(NotServed::TooDeep)
    }
}

/// Looks up an event for a walk. `None` if it is not in the graph, as outliers are not.
pub(super) fn walk_node(
    topology: &Topology<'_, Store>,
    event: EventNum,
    deadline: &Deadline,
) -> Result<Option<WalkNode<EventNum, EventNode>>, QueryError> {
    deadline.check()?;
    let Some(node) = topology.node(event)?.filter(|it| !it.flags.outlier) else { return Ok(None) };
    let held = |edge: &PrevEvent| match edge {
        PrevEvent::Held(event) => Some(*event),
        PrevEvent::Missing => None,
    };
    let prev_events: Vec<EventNum> = node.prev_events.iter().filter_map(held).collect();
    topology.expect(&prev_events)?;
    Ok(Some(WalkNode {
        position: Position { depth: node.depth, arrival: node.arrival },
        servable: not_served(&node).is_none(),
        prev_events,
        has_gap: node.prev_events.contains(&PrevEvent::Missing),
        event: node,
    }))
}

/// Events from which a walk starts, by their names.
pub(super) struct NamedEvents {
    /// The numbers of those that the room holds.
    pub(super) held: Vec<EventNum>,
    /// The ids of those that are not in the graph of the room: not held, or held as outliers.
    pub(super) unknown: Vec<String>,
}

/// The events that are named to start from. Only the first `max` names are looked at. A name that
/// is too long for an event id is left out.
pub(super) fn named_events(
    topology: &Topology<'_, Store>,
    store: &Store,
    room: RoomNum,
    event_ids: &[String],
    max: usize,
) -> Result<NamedEvents, StoreError> {
    let mut named = NamedEvents { held: Vec::new(), unknown: Vec::new() };
    for event_id in event_ids.iter().take(max).filter(|it| it.len() <= MAX_ID_BYTES) {
        let event = store.event_num(room, event_id)?;
        let node = event.map(|it| topology.node(it)).transpose()?.flatten();
        if node.is_none_or(|it| it.flags.outlier) {
            named.unknown.push(event_id.clone());
        }
        named.held.extend(event);
    }
    Ok(named)
}

/// Those of some names that are not too long for an event id.
pub(super) fn short_ids(event_ids: &[String]) -> impl Iterator<Item = &str> {
    event_ids.iter().map(String::as_str).filter(|it| it.len() <= MAX_ID_BYTES)
}

/// The numbers of the named events, as far as the room holds them. Only the first `max` names are
/// looked at.
pub(super) fn held_events(
    store: &Store,
    room: RoomNum,
    event_ids: &[String],
    max: usize,
) -> Result<Vec<EventNum>, StoreError> {
    let numbers = event_ids.iter().take(max).map(|it| store.event_num(room, it));
    numbers.filter_map(Result::transpose).collect()
}

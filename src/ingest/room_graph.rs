//! The graph of a whole room, read in one pass without a lock.

use crate::{
    graph::Outline,
    store::{EventNum, PrevEvent, RoomNum, Store, StoreError, View},
};

/// The graph of a room as it was when it was read.
pub(super) struct RoomGraph {
    pub(super) outline: Outline,
    /// Events with a predecessor that was not placed.
    pub(super) gapped: Vec<EventNum>,
    /// Events with this number and greater ones were stored after the graph was read.
    pub(super) next_event: EventNum,
}

impl RoomGraph {
    /// Reads the nodes of a room.
    pub(super) fn read(store: &Store, room: RoomNum) -> Result<Self, StoreError> {
        let next_event = store.room(room)?.next_event;
        let mut outline = Outline::default();
        let mut gapped = Vec::new();
        let topology = store.topology(room);
        for event in (0..next_event.0).map(EventNum) {
            let node = topology.node(event)?.filter(|it| !it.flags.outlier);
            let edges = node.iter().flat_map(|it| &it.prev_events);
            let held = edges.filter_map(|it| match it {
                PrevEvent::Held(prev) => Some(prev.0),
                PrevEvent::Missing => None,
            });
            outline.push(node.as_ref().map(|it| it.depth), held);
            if node.is_some_and(|it| it.prev_events.contains(&PrevEvent::Missing)) {
                gapped.push(event);
            }
        }
        Ok(Self { outline, gapped, next_event })
    }
}

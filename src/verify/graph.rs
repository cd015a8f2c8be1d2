//! Verifies a room's graph as a whole, with the room locked: counters, cycles, forward extremities,
//! and the flags of followed events. A repair counts with the same functions.

use super::{Counted, FaultKind, VerifiedRoom};
use crate::{
    ingest, num,
    state::map,
    store::{
        Deriving as _, Edit, EventNode, EventNum, Extremity, PrevEvent, Room, StoreError, Topology,
        View,
    },
};

/// The counters of a room, added up from its nodes.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) outliers: u64,
    pub(super) rejected: u64,
    pub(super) soft_failed: u64,
    pub(super) unreadable: u64,
    pub(super) listed_arrivals: u64,
    /// The greatest order of arrival; `None` if there are no events.
    pub(super) last_arrival: Option<i64>,
    /// Forward extremities, by event number.
    pub(super) extremities: Vec<Extremity>,
    pub(super) purged: u64,
}

impl VerifiedRoom<'_> {
    /// Verifies the graph as a whole. Needs six bytes of memory for each event.
    pub(super) fn graph(&mut self) -> Result<(), StoreError> {
        let Some(mut edit) = self.lock()? else { return Ok(()) };
        let room = &edit.room;
        let topology = edit.topology(self.number);
        let verified = self.sums(room, &topology);
        self.tolerate(verified)?;
        let verified = self.cycles(room, &topology);
        self.tolerate(verified)?;
        if !edit.unsettled(self.number, 1)?.is_empty() || edit.is_deriving(self.number)? {
            // The records that follow from the whole graph are still being derived.
            return Ok(());
        }
        let verified = self.followed(room, &topology);
        self.tolerate(verified)?;
        let verified = self.current_state(&mut edit);
        self.tolerate(verified)
    }

    /// Verifies counters and the list of forward extremities.
    fn sums(&mut self, room: &Room, topology: &Topology<'_, Edit<'_>>) -> Result<(), StoreError> {
        let sums = Sums::of(room, topology)?;
        let counters = [
            (Counted::Outliers, room.outliers, sums.outliers),
            (Counted::Rejected, room.rejected, sums.rejected),
            (Counted::SoftFailed, room.soft_failed, sums.soft_failed),
            (Counted::Unreadable, room.unreadable, sums.unreadable),
            (Counted::Purged, room.purged, sums.purged),
            (Counted::ListedArrivals, room.listed_arrivals, sums.listed_arrivals),
        ];
        for (what, recorded, counted) in counters {
            if recorded != counted {
                self.fault("", FaultKind::Count { what, counted, recorded })?;
            }
        }
        let mut listed = self.store.extremities(self.number, usize::MAX)?;
        listed.sort_unstable();
        let count = num::u64(listed.len());
        if listed != sums.extremities || room.forward_extremities != count {
            self.fault("", FaultKind::ExtremitiesWrong)?;
        }
        if sums.last_arrival.is_some_and(|it| room.next_arrival <= it) {
            self.fault("", FaultKind::NextArrivalTaken)?;
        }
        Ok(())
    }

    /// Verifies the flags of events that an accepted event follows.
    fn followed(
        &mut self,
        room: &Room,
        topology: &Topology<'_, Edit<'_>>,
    ) -> Result<(), StoreError> {
        for (event, followed) in (0u32..).map(EventNum).zip(followed(room, topology)?) {
            let Some(node) = topology.node(event)? else { continue };
            if !node.flags.outlier && node.flags.followed != followed {
                let event_id = self.store.body(self.number, event)?.event_id;
                self.fault(&event_id, FaultKind::FollowedWrong)?;
            }
        }
        Ok(())
    }

    /// Verifies that the edges have no cycle.
    fn cycles(&mut self, room: &Room, topology: &Topology<'_, Edit<'_>>) -> Result<(), StoreError> {
        for event in oldest_first(room, topology)?.cyclic {
            let event_id = self.store.body(self.number, event)?.event_id;
            self.fault(&event_id, FaultKind::Cycle)?;
        }
        Ok(())
    }

    /// Verifies the current state against the states after the forward extremities.
    fn current_state(&mut self, edit: &mut Edit<'_>) -> Result<(), StoreError> {
        let Some(held) = edit.room.current_state else { return Ok(()) };
        let is_right = match ingest::derive_current_state(edit)? {
            Some(derived) => {
                let nodes = edit.states(self.number);
                held == derived || map::diff(&nodes, held.root(), derived.root())?.is_empty()
            }
            None => false,
        };
        if is_right { Ok(()) } else { self.fault("", FaultKind::CurrentStateWrong) }
    }
}

/// A room's events in topological order.
pub(super) struct OldestFirst {
    /// Every event, behind all events that it follows.
    pub(super) order: Vec<EventNum>,
    /// Events that are reachable from themselves; empty in a sound room.
    pub(super) cyclic: Vec<EventNum>,
}

/// Sorts a room's events by a depth-first walk. Needs five bytes of memory for each event.
pub(super) fn oldest_first(
    room: &Room,
    topology: &Topology<'_, Edit<'_>>,
) -> Result<OldestFirst, StoreError> {
    /// The progress of the walk with one event.
    #[derive(Clone, Copy, PartialEq)]
    enum Visit {
        Unseen,
        OnPath,
        Done,
    }
    let mut order = Vec::new();
    let mut cyclic = Vec::new();
    let mut marks = vec![Visit::Unseen; num::usize(room.next_event.0)];
    for start in (0..room.next_event.0).map(EventNum) {
        let mut path = vec![(start, false)];
        while let Some((event, leaving)) = path.pop() {
            let Some(mark) = marks.get_mut(num::usize(event.0)) else { continue };
            if leaving {
                *mark = Visit::Done;
                order.push(event);
                continue;
            }
            match *mark {
                Visit::Done => continue,
                Visit::OnPath => {
                    cyclic.push(event);
                    continue;
                }
                Visit::Unseen => *mark = Visit::OnPath,
            }
            path.push((event, true));
            if let Some(node) = topology.node(event)? {
                path.extend(stored_prev_events(&node).map(|prev| (prev, false)));
            }
        }
    }
    Ok(OldestFirst { order, cyclic })
}

/// For each event, by number, whether an accepted event follows it, directly or through events that
/// were not accepted.
pub(super) fn followed(
    room: &Room,
    topology: &Topology<'_, Edit<'_>>,
) -> Result<Vec<bool>, StoreError> {
    let mut followed = vec![false; num::usize(room.next_event.0)];
    let mut stack = Vec::new();
    for event in (0..room.next_event.0).map(EventNum) {
        let Some(node) = topology.node(event)? else { continue };
        if node.flags.is_accepted() {
            stack.extend(stored_prev_events(&node));
        }
        while let Some(prev) = stack.pop() {
            let Some(mark) = followed.get_mut(num::usize(prev.0)) else { continue };
            if !std::mem::replace(mark, true)
                && let Some(node) = topology.node(prev)?
                && !node.flags.is_accepted()
            {
                stack.extend(stored_prev_events(&node));
            }
        }
    }
    Ok(followed)
}

impl Sums {
    /// Adds up the nodes of a room.
    pub(super) fn of(room: &Room, topology: &Topology<'_, Edit<'_>>) -> Result<Self, StoreError> {
        let mut sums = Self::default();
        for event in (0..room.next_event.0).map(EventNum) {
            match topology.node(event)? {
                Some(node) => sums.add(event, &node),
                None => sums.purged += 1,
            }
        }
        Ok(sums)
    }

    /// Writes the counters into the room's record. The next position in the order of arrival is
    /// never lowered.
    pub(super) fn write_to(self, room: &mut Room) {
        let Self { outliers, rejected, soft_failed, unreadable, .. } = self;
        let Self { listed_arrivals, last_arrival, extremities, purged, .. } = self;
        room.outliers = outliers;
        room.rejected = rejected;
        room.soft_failed = soft_failed;
        room.unreadable = unreadable;
        room.listed_arrivals = listed_arrivals;
        room.purged = purged;
        room.forward_extremities = num::u64(extremities.len());
        let next = last_arrival.map_or(0, |it| it.saturating_add(1));
        room.next_arrival = room.next_arrival.max(next);
    }

    fn add(&mut self, event: EventNum, node: &EventNode) {
        let flags = node.flags;
        self.outliers += u64::from(flags.outlier);
        self.rejected += u64::from(flags.rejected && !flags.outlier);
        self.soft_failed += u64::from(flags.soft_failed && !flags.outlier);
        self.unreadable += u64::from(flags.unreadable);
        self.listed_arrivals += u64::from(node.arrival != i64::from(event.0));
        self.last_arrival = self.last_arrival.max(Some(node.arrival));
        self.extremities.extend(node.extremity(event));
    }
}

/// The stored predecessors of an event.
fn stored_prev_events(node: &EventNode) -> impl Iterator<Item = EventNum> {
    node.prev_events.iter().filter_map(|edge| match edge {
        PrevEvent::Held(event) => Some(*event),
        PrevEvent::Missing => None,
    })
}

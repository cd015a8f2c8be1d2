//! The room as a whole, held still: what its nodes add up to, no cycle, and every event that is
//! followed is marked so. What a repair counts again is counted here.

use super::{Counted, Walk, What};
use crate::{
    ingest,
    state::map,
    store::{Edit, EventNode, EventNum, Extremity, PrevEvent, Room, StoreError, Topology, View},
};

/// What a room's nodes add up to.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) outliers: u64,
    pub(super) rejected: u64,
    pub(super) soft_failed: u64,
    pub(super) unreadable: u64,
    pub(super) listed_arrivals: u64,
    pub(super) last_arrival: Option<i64>,
    /// By the numbers of the events.
    pub(super) extremities: Vec<Extremity>,
    pub(super) purged: u64,
}

impl Walk<'_> {
    /// Takes six bytes an event.
    pub(super) fn whole(&mut self) -> Result<(), StoreError> {
        let Some(mut edit) = self.hold()? else { return Ok(()) };
        let (room, topology) = (&edit.room, edit.topology(self.number));
        let looked = self.sums(room, &topology);
        self.tolerate(looked)?;
        let looked = self.cycles(room, &topology);
        self.tolerate(looked)?;
        if !edit.unsettled(self.number, 1)?.is_empty() {
            // What follows from the graph as a whole is still being worked out.
            return Ok(());
        }
        let looked = self.followed(room, &topology);
        self.tolerate(looked)?;
        let looked = self.current_state(&mut edit);
        self.tolerate(looked)
    }

    /// Counters and forward extremities.
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
        for (what, held, counted) in counters {
            if held != counted {
                self.fault("", What::Count { what, counted, held })?;
            }
        }
        let mut listed = self.store.extremities(self.number, usize::MAX)?;
        listed.sort_unstable();
        let count = u64::try_from(listed.len()).unwrap_or(u64::MAX);
        if listed != sums.extremities || room.forward_extremities != count {
            self.fault("", What::Extremities)?;
        }
        if sums.last_arrival.is_some_and(|it| room.next_arrival <= it) {
            self.fault("", What::NextArrival)?;
        }
        Ok(())
    }

    fn followed(
        &mut self,
        room: &Room,
        topology: &Topology<'_, Edit<'_>>,
    ) -> Result<(), StoreError> {
        for (event, followed) in (0u32..).map(EventNum).zip(followed(room, topology)?) {
            let Some(node) = topology.node(event)? else { continue };
            if !node.flags.outlier && node.flags.followed != followed {
                let event_id = self.store.body(self.number, event)?.event_id;
                self.fault(&event_id, What::Followed)?;
            }
        }
        Ok(())
    }

    fn cycles(&mut self, room: &Room, topology: &Topology<'_, Edit<'_>>) -> Result<(), StoreError> {
        for event in oldest_first(room, topology)?.1 {
            let event_id = self.store.body(self.number, event)?.event_id;
            self.fault(&event_id, What::Cycle)?;
        }
        Ok(())
    }

    /// The current state, against the states of the forward extremities.
    fn current_state(&mut self, edit: &mut Edit<'_>) -> Result<(), StoreError> {
        let Some(held) = edit.room.current_state else { return Ok(()) };
        let is_it = match ingest::derive_current_state(edit)? {
            Some(derived) => {
                let nodes = edit.states(self.number);
                held == derived || map::diff(&nodes, held.root(), derived.root())?.is_empty()
            }
            None => false,
        };
        if is_it { Ok(()) } else { self.fault("", What::CurrentState) }
    }
}

/// A room's events, each behind all that it follows, and those that a walk met on its way from
/// them: they precede themselves. Takes five bytes an event.
pub(super) fn oldest_first(
    room: &Room,
    topology: &Topology<'_, Edit<'_>>,
) -> Result<(Vec<EventNum>, Vec<EventNum>), StoreError> {
    /// How far a depth-first walk has come with an event.
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        Unseen,
        OnPath,
        Done,
    }
    let (mut order, mut cyclic) = (Vec::new(), Vec::new());
    let mut marks = vec![Mark::Unseen; index(room.next_event)];
    for start in (0..room.next_event.0).map(EventNum) {
        let mut path = vec![(start, false)];
        while let Some((event, leaving)) = path.pop() {
            let Some(mark) = marks.get_mut(index(event)) else { continue };
            if leaving {
                *mark = Mark::Done;
                order.push(event);
                continue;
            }
            match *mark {
                Mark::Done => continue,
                Mark::OnPath => {
                    cyclic.push(event);
                    continue;
                }
                Mark::Unseen => *mark = Mark::OnPath,
            }
            path.push((event, true));
            if let Some(node) = topology.node(event)? {
                path.extend(held(&node).map(|prev| (prev, false)));
            }
        }
    }
    Ok((order, cyclic))
}

/// Which events are followed: those that an accepted event references, directly or through events
/// that were not accepted.
pub(super) fn followed(
    room: &Room,
    topology: &Topology<'_, Edit<'_>>,
) -> Result<Vec<bool>, StoreError> {
    let mut followed = vec![false; index(room.next_event)];
    let mut stack = Vec::new();
    for event in (0..room.next_event.0).map(EventNum) {
        let Some(node) = topology.node(event)? else { continue };
        if node.flags.is_accepted() {
            stack.extend(held(&node));
        }
        while let Some(prev) = stack.pop() {
            let Some(mark) = followed.get_mut(index(prev)) else { continue };
            if !std::mem::replace(mark, true)
                && let Some(node) = topology.node(prev)?
                && !node.flags.is_accepted()
            {
                stack.extend(held(&node));
            }
        }
    }
    Ok(followed)
}

impl Sums {
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

fn index(event: EventNum) -> usize {
    usize::try_from(event.0).unwrap_or(usize::MAX)
}

fn held(node: &EventNode) -> impl Iterator<Item = EventNum> {
    node.prev_events.iter().filter_map(|edge| match edge {
        PrevEvent::Held(event) => Some(*event),
        PrevEvent::Missing => None,
    })
}

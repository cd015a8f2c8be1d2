//! The room as a whole, held still: what its nodes add up to, no cycle, and every event that is
//! followed is marked so.

use super::Walk;
use crate::store::{Edit, EventNode, EventNum, PrevEvent, Room, StoreError, Topology, View};

/// What a room's nodes add up to.
#[derive(Default)]
struct Sums {
    outliers: u64,
    rejected: u64,
    soft_failed: u64,
    listed_arrivals: u64,
    last_arrival: Option<i64>,
    extremities: Vec<EventNum>,
    purged: u64,
}

impl Walk<'_> {
    /// Takes a byte and a few bits an event.
    pub(super) fn whole(&mut self) -> Result<(), StoreError> {
        let Some(edit) = self.hold()? else { return Ok(()) };
        let (room, topology) = (&edit.room, edit.topology(self.number));
        let looked = self.sums(room, &topology);
        self.tolerate(looked)?;
        let looked = self.followed(room, &topology);
        self.tolerate(looked)?;
        let looked = self.cycles(room, &topology);
        self.tolerate(looked)
    }

    /// Counters and forward extremities.
    fn sums(&mut self, room: &Room, topology: &Topology<'_, Edit<'_>>) -> Result<(), StoreError> {
        let mut sums = Sums::default();
        for event in (0..room.next_event.0).map(EventNum) {
            match topology.node(event)? {
                Some(node) => sums.add(event, &node),
                None => sums.purged += 1,
            }
        }
        let counters = [
            ("outliers", room.outliers, sums.outliers),
            ("rejected events", room.rejected, sums.rejected),
            ("soft-failed events", room.soft_failed, sums.soft_failed),
            ("purged events", room.purged, sums.purged),
            ("listed arrivals", room.listed_arrivals, sums.listed_arrivals),
        ];
        for (what, held, counted) in counters {
            if held != counted {
                self.fault("", format!("has {counted} {what}, its record says {held}"))?;
            }
        }
        if room.forward_extremities != sums.extremities {
            self.fault("", "its forward extremities do not follow from the graph")?;
        }
        if sums.last_arrival.is_some_and(|it| room.next_arrival <= it) {
            self.fault("", "its next arrival is one that has been")?;
        }
        Ok(())
    }

    /// An event is followed when an accepted event references it, directly or through events that
    /// were not accepted.
    fn followed(
        &mut self,
        room: &Room,
        topology: &Topology<'_, Edit<'_>>,
    ) -> Result<(), StoreError> {
        let mut followed = vec![false; index(EventNum(room.next_event.0))];
        let mut stack = Vec::new();
        for event in (0..room.next_event.0).map(EventNum) {
            let Some(node) = topology.node(event)? else { continue };
            if is_accepted(&node) {
                stack.extend(held(&node));
            }
            while let Some(prev) = stack.pop() {
                let Some(mark) = followed.get_mut(index(prev)) else { continue };
                if !std::mem::replace(mark, true)
                    && let Some(node) = topology.node(prev)?
                    && !is_accepted(&node)
                {
                    stack.extend(held(&node));
                }
            }
        }
        for (event, followed) in (0u32..).map(EventNum).zip(followed) {
            let Some(node) = topology.node(event)? else { continue };
            if !node.flags.outlier && node.flags.followed != followed {
                let event_id = self.store.body(self.number, event)?.event_id;
                self.fault(&event_id, "whether anything follows it is kept wrongly")?;
            }
        }
        Ok(())
    }

    fn cycles(&mut self, room: &Room, topology: &Topology<'_, Edit<'_>>) -> Result<(), StoreError> {
        /// How far a depth-first walk has come with an event.
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            Unseen,
            OnPath,
            Done,
        }
        let mut marks = vec![Mark::Unseen; index(EventNum(room.next_event.0))];
        for start in (0..room.next_event.0).map(EventNum) {
            let mut path = vec![(start, false)];
            while let Some((event, leaving)) = path.pop() {
                let Some(mark) = marks.get_mut(index(event)) else { continue };
                if leaving {
                    *mark = Mark::Done;
                    continue;
                }
                match *mark {
                    Mark::Done => continue,
                    Mark::OnPath => {
                        let event_id = self.store.body(self.number, event)?.event_id;
                        self.fault(&event_id, "precedes itself")?;
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
        Ok(())
    }
}

impl Sums {
    fn add(&mut self, event: EventNum, node: &EventNode) {
        let flags = node.flags;
        self.outliers += u64::from(flags.outlier);
        self.rejected += u64::from(flags.rejected && !flags.outlier);
        self.soft_failed += u64::from(flags.soft_failed && !flags.outlier);
        self.listed_arrivals += u64::from(node.arrival != i64::from(event.0));
        self.last_arrival = self.last_arrival.max(Some(node.arrival));
        if is_accepted(node) && !flags.followed {
            self.extremities.push(event);
        }
    }
}

fn index(event: EventNum) -> usize {
    usize::try_from(event.0).unwrap_or(usize::MAX)
}

fn is_accepted(node: &EventNode) -> bool {
    !node.flags.outlier && !node.flags.rejected && !node.flags.soft_failed
}

fn held(node: &EventNode) -> impl Iterator<Item = EventNum> {
    node.prev_events.iter().filter_map(|edge| match edge {
        PrevEvent::Held(event) => Some(*event),
        PrevEvent::Missing => None,
    })
}

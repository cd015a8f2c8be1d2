//! The graph as a whole: no cycle, and every event that is followed is marked so.

use super::Walk;
use crate::store::{EventNode, EventNum, PrevEvent, Room, StoreError, Topology, View};

impl Walk<'_> {
    /// Takes a byte and a few bits an event.
    pub(super) fn graph(&mut self, room: &Room) -> Result<(), StoreError> {
        let store = self.store;
        let topology = store.topology(self.number);
        let looked = self.followed(room, &topology);
        self.tolerate(looked)?;
        let looked = self.cycles(room, &topology);
        self.tolerate(looked)
    }

    /// An event is followed when an accepted event references it, directly or through events that
    /// were not accepted.
    fn followed<V: View>(
        &mut self,
        room: &Room,
        topology: &Topology<'_, V>,
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
                self.fault(&event_id, "whether anything follows it is kept wrongly");
            }
        }
        Ok(())
    }

    fn cycles<V: View>(
        &mut self,
        room: &Room,
        topology: &Topology<'_, V>,
    ) -> Result<(), StoreError> {
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
                        self.fault(&event_id, "precedes itself");
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

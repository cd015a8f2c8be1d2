//! Determines again which events an accepted event follows, after an accepted event was removed or is
//! not accepted any more.

use super::{DerivePlan, Noted};
use crate::store::{DeriveAgain, Deriving as _, Edit, EventNum, PrevEvent, StoreError};

/// An edge that is not in the plan.
struct LaterEdge {
    follower: EventNum,
    prev: EventNum,
}

impl DerivePlan {
    /// Determines at most `limit` noted events again, those that follow others first. Of an event that
    /// was not accepted and is not followed any more, the predecessors are noted in turn.
    pub(super) fn follow_again(
        &self,
        edit: &mut Edit<'_>,
        noted: &mut Noted,
        limit: usize,
    ) -> Result<(), StoreError> {
        if noted.followed.is_empty() {
            return Ok(());
        }
        let later = self.later_edges(edit)?;
        for _ in 0..limit {
            let Some((_, event)) = noted.followed.pop_last() else { return Ok(()) };
            let Some(again) = edit.derive_again(edit.room_num(), event)?.filter(|it| it.followed)
            else {
                continue;
            };
            edit.put_derive_again(event, DeriveAgain { followed: false, ..again });
            let node = edit.find_node(event)?.filter(|it| it.flags.followed);
            let Some(mut node) = node else { continue };
            if self.is_followed(edit, &later, event)? {
                continue;
            }
            node.flags.followed = false;
            let passes_on = !node.flags.is_accepted();
            let prev_events = node.prev_events.clone();
            edit.put_node(event, node)?;
            for edge in prev_events.iter().filter(|_| passes_on) {
                if let PrevEvent::Held(prev) = *edge {
                    edit.note_derive_again(prev, DeriveAgain::FOLLOWED)?;
                    self.add(noted, prev, DeriveAgain::FOLLOWED);
                }
            }
        }
        Ok(())
    }

    /// The edges of events that were stored after the plan was made, and of those with gaps that may
    /// have been closed since.
    fn later_edges(&self, edit: &Edit<'_>) -> Result<Vec<LaterEdge>, StoreError> {
        let new = (self.next_event.0..edit.room.next_event.0).map(EventNum);
        let mut edges = Vec::new();
        for follower in self.gapped.iter().copied().chain(new) {
            for edge in edit.find_node(follower)?.iter().flat_map(|it| &it.prev_events) {
                if let PrevEvent::Held(prev) = *edge {
                    edges.push(LaterEdge { follower, prev });
                }
            }
        }
        Ok(edges)
    }

    fn is_followed(
        &self,
        edit: &Edit<'_>,
        later: &[LaterEdge],
        event: EventNum,
    ) -> Result<bool, StoreError> {
        let planned = self.followers.of_event(event.0).iter().map(|it| EventNum(*it));
        let later = later.iter().filter(|it| it.prev == event).map(|it| it.follower);
        for follower in planned.chain(later) {
            // An edge of the plan may have been cut since.
            let node = edit.find_node(follower)?;
            let counts = node.is_some_and(|it| {
                it.prev_events.contains(&PrevEvent::Held(event))
                    && (it.flags.is_accepted() || it.flags.followed)
            });
            if counts {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

//! The part of a walk that does not depend on its order: lookups, the budget and the end.

use std::collections::BTreeSet;

use super::{WalkEnd, WalkNode, WalkResult};

/// Looks events up within a budget, and adds them to the answer as long as it has space.
pub(super) struct Walker<Id, Look, Take> {
    look: Look,
    take: Take,
    budget: u32,
    visited: u32,
    seen: BTreeSet<Id>,
    gaps: Vec<Id>,
}

/// The reason why a walk does not go on.
pub(super) enum Stop<E> {
    /// It has ended, with an answer.
    End(WalkEnd),
    /// A closure of the caller failed.
    Failed(E),
}

impl<E> From<E> for Stop<E> {
    fn from(failure: E) -> Self {
        Self::Failed(failure)
    }
}

impl<Id, Event, E, Look, Take> Walker<Id, Look, Take>
where
    Id: Copy + Ord,
    Look: FnMut(Id) -> Result<Option<WalkNode<Id, Event>>, E>,
    Take: FnMut(Id, Event) -> Result<bool, E>,
{
    pub(super) fn new(budget: u32, look: Look, take: Take) -> Self {
        Self { look, take, budget, visited: 0, seen: BTreeSet::new(), gaps: Vec::new() }
    }

    /// Excludes events from the walk.
    pub(super) fn exclude(&mut self, ids: &[Id]) {
        self.seen.extend(ids);
    }

    /// Whether an event was looked up already, or is excluded.
    pub(super) fn has_seen(&self, id: Id) -> bool {
        self.seen.contains(&id)
    }

    /// Looks up an event. `None` if it was seen before, or if the caller does not know it.
    pub(super) fn look_up(&mut self, id: Id) -> Result<Option<WalkNode<Id, Event>>, Stop<E>> {
        if !self.seen.insert(id) {
            return Ok(None);
        }
        if self.visited >= self.budget {
            return Err(Stop::End(WalkEnd::Budget));
        }
        self.visited += 1;
        Ok((self.look)(id)?)
    }

    /// Adds an event to the answer; ends the walk if the answer has no space for it.
    pub(super) fn take(&mut self, id: Id, event: Event) -> Result<(), Stop<E>> {
        if (self.take)(id, event)? { Ok(()) } else { Err(Stop::End(WalkEnd::Size)) }
    }

    /// Notes that an event has predecessors that are not held.
    pub(super) fn note_gap(&mut self, id: Id) {
        self.gaps.push(id);
    }

    /// The result of a walk that walked as long as it could, and found these events.
    pub(super) fn finish(
        self,
        walked: Result<(), Stop<E>>,
        found: Vec<Id>,
    ) -> Result<WalkResult<Id>, E> {
        let end = match walked {
            Ok(()) => WalkEnd::Exhausted,
            Err(Stop::End(end)) => end,
            Err(Stop::Failed(failure)) => return Err(failure),
        };
        Ok(WalkResult { found, gaps: self.gaps, end, visited: self.visited })
    }
}

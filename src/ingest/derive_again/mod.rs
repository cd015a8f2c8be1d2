//! Derives again what follows from replaced verdicts and bytes, and from removed events.
//!
//! A decision that replaces something notes what is to be derived again. From then on, until the last
//! note is gone, the room is not served to other servers, and no other state of the room is derived:
//! events that are appended meanwhile get their states afterwards. So the events whose states are known
//! do not change meanwhile, and one pass over the room's nodes shows all of their followers.
//!
//! Noted events are derived again in topological order, in slices; a slice is one decision. If the
//! state after an event has changed, the events that follow it are noted in the same decision, so it
//! does not matter where the work is cut off. Paths along which no state changes are not followed any
//! further. A state that was given stays as it was given.

mod followed;
mod states;

use std::collections::BTreeSet;

use super::{backlog::NotesLeft, redaction, rederive::derive_current_state, room_graph::RoomGraph};
use crate::{
    graph::Followers,
    store::{
        Decision, DeriveAgain, Deriving as _, Edit, EventNum, NotedAgain, PrevEvent, RoomIdentity,
        RoomNum, Store, StoreError,
    },
};

/// Events that are derived again in one decision: bounds its memory, and the time for which writers of
/// the room wait.
const SLICE: usize = 256;
/// Events that are looked at in one decision for several predecessors.
const MERGES_PER_SLICE: u32 = 2_048;
/// The most slices of a turn.
const SLICES_PER_TURN: usize = 64;

/// Derives again some of what is noted in a room. Returns whether notes about events are left.
pub(super) fn turn(store: &Store, room_id: &str) -> Result<NotesLeft, StoreError> {
    let Some(room) = store.room_identity(room_id)? else { return Ok(NotesLeft::None) };
    let has_notes = |number| store.has_derive_again(number);
    if store.read_whole(&room, has_notes)? != Some(true) {
        return Ok(NotesLeft::None);
    }
    let make = |number| DerivePlan::make(store, number);
    let Some(mut plan) = store.read_whole(&room, make)? else { return Ok(NotesLeft::None) };
    for _ in 0..SLICES_PER_TURN {
        if plan.slice(store, &room)? == NotesLeft::None {
            return Ok(NotesLeft::None);
        }
    }
    Ok(NotesLeft::Some)
}

/// Ends the work in a room in which no notes are left, and derives its current state again. If that is
/// not known, no state decides about access: those that were known last may follow from what was
/// replaced.
pub(super) fn end(edit: &mut Edit<'_>) -> Result<(), StoreError> {
    edit.end_deriving();
    if derive_current_state(edit)?.is_none() {
        edit.room.last_known.clear();
        edit.room.known_over.clear();
    }
    Ok(())
}

/// The events that are to be derived again, in the order of that.
#[derive(Clone, Default)]
struct Noted {
    /// By their position in the topological order: predecessors first.
    by_rank: BTreeSet<(u32, EventNum)>,
    /// Those of which it is to be determined if an accepted event follows: followers first.
    followed: BTreeSet<(u32, EventNum)>,
}

/// The graph of a room, and what is left to do in it.
struct DerivePlan {
    followers: Followers,
    /// As in [`RoomGraph`].
    gapped: Vec<EventNum>,
    next_event: EventNum,
    noted: Noted,
}

impl DerivePlan {
    fn make(store: &Store, number: RoomNum) -> Result<Self, StoreError> {
        let RoomGraph { outline, gapped, next_event } = RoomGraph::read(store, number)?;
        let followers = Followers::of(&outline);
        let mut plan = Self { followers, gapped, next_event, noted: Noted::default() };
        let mut noted = Noted::default();
        for NotedAgain { event, again } in store.noted_again(number)? {
            plan.add(&mut noted, event, again);
        }
        plan.noted = noted;
        Ok(plan)
    }

    fn add(&self, noted: &mut Noted, event: EventNum, again: DeriveAgain) {
        let at = (self.followers.rank(event.0), event);
        noted.by_rank.insert(at);
        if again.followed {
            noted.followed.insert(at);
        }
    }

    /// Derives some events again, in one decision. Returns whether the room may have more notes.
    fn slice(&mut self, store: &Store, room: &RoomIdentity) -> Result<NotesLeft, StoreError> {
        let plan = &*self;
        let sliced = store.decide(room.room_id(), None, |edit| {
            // The room may have been deleted and created again since the plan was made.
            if !edit.is_of(room) {
                return Ok::<_, StoreError>(Decision::Discard(Noted::default()));
            }
            let mut noted = plan.noted.clone();
            plan.derive(edit, &mut noted)?;
            Ok(Decision::Commit(noted))
        })?;
        self.noted = sliced.unwrap_or_default();
        if !self.noted.by_rank.is_empty() {
            return Ok(NotesLeft::Some);
        }
        // Other events may have been noted since the plan was made.
        let make = |number| {
            if store.has_derive_again(number)? {
                Self::make(store, number).map(Some)
            } else {
                Ok(None)
            }
        };
        let Some(plan) = store.read_whole(room, make)?.flatten() else {
            return Ok(NotesLeft::None);
        };
        *self = plan;
        Ok(NotesLeft::Some)
    }

    fn derive(&self, edit: &mut Edit<'_>, noted: &mut Noted) -> Result<(), StoreError> {
        // The current state may be wrong, so that no state may be taken from it.
        edit.room.resolved_from.clear();
        self.follow_again(edit, noted, SLICE)?;
        for _ in 0..SLICE {
            let Some((_, event)) = noted.by_rank.pop_first() else { break };
            let Some(again) = edit.derive_again(edit.room_num(), event)? else { continue };
            self.derive_one(edit, noted, NotedAgain { event, again })?;
        }
        Ok(())
    }

    /// Derives again what is noted for one event.
    fn derive_one(
        &self,
        edit: &mut Edit<'_>,
        noted: &mut Noted,
        NotedAgain { event, again }: NotedAgain,
    ) -> Result<(), StoreError> {
        let mut left = DeriveAgain { state: false, ..again };
        if again.state && states::derive(edit, event)? {
            for follower in self.followers.of_event(event.0) {
                let follower = EventNum(*follower);
                edit.note_derive_again(follower, DeriveAgain::STATE)?;
                self.add(noted, follower, DeriveAgain::STATE);
            }
        }
        // Deriving the state may have noted more.
        let since = edit.derive_again(edit.room_num(), event)?.unwrap_or_default();
        left.judge_after = left.and(since).judge_after;
        if let Some(from) = left.merges_from {
            left.merges_from = self.note_merges(edit, noted, from)?;
        }
        if let Some(after) = left.judge_after {
            left.judge_after = redaction::judge_after(edit, after)?;
        }
        edit.put_derive_again(event, left);
        if left != DeriveAgain::default() {
            self.add(noted, event, left);
        }
        Ok(())
    }

    /// Notes events whose state results from several states, beginning with `from`. Returns where to
    /// continue; `None` after the last event.
    fn note_merges(
        &self,
        edit: &mut Edit<'_>,
        noted: &mut Noted,
        from: EventNum,
    ) -> Result<Option<EventNum>, StoreError> {
        let end = from.0.saturating_add(MERGES_PER_SLICE).min(self.next_event.0);
        for event in (from.0..end).map(EventNum) {
            let Some(node) = edit.find_node(event)? else { continue };
            let mut states = BTreeSet::new();
            for edge in &node.prev_events {
                if let PrevEvent::Held(prev) = *edge {
                    states.insert(edit.find_node(prev)?.and_then(|it| it.state_after));
                }
            }
            if states.len() > 1 {
                edit.note_derive_again(event, DeriveAgain::STATE)?;
                self.add(noted, event, DeriveAgain::STATE);
            }
        }
        Ok((end < self.next_event.0).then_some(EventNum(end)))
    }
}

/// Whether the states of a room must not be derived now, because some are to be derived again first.
pub(super) fn is_frozen(edit: &Edit<'_>) -> Result<bool, StoreError> {
    let room = edit.room_num();
    Ok(edit.is_deriving(room)? && edit.has_derive_again(room)?)
}

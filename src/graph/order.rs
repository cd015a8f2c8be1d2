//! The order of an answer that a receiver can process from start to end.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use super::Position;

/// An event with what decides its place in the order.
pub(super) struct Located<Id> {
    pub(super) id: Id,
    pub(super) position: Position,
    /// All of its predecessors; those that are not ordered along with it are ignored.
    pub(super) prev_events: Vec<Id>,
}

/// Orders events so that each follows those of its predecessors that are among them; where that
/// leaves a choice, by position. Events on a cycle are put at the end, by position. Hashes make
/// cycles impossible, but in room versions 1 and 2 the sender chooses the id of its event.
pub(super) fn oldest_first<Id: Copy + Ord>(events: Vec<Located<Id>>) -> Vec<Id> {
    let positions: BTreeMap<Id, Position> = events.iter().map(|it| (it.id, it.position)).collect();
    let mut followers: BTreeMap<Id, Vec<Id>> = BTreeMap::new();
    let mut waits_for: BTreeMap<Id, usize> = BTreeMap::new();
    for Located { id, prev_events, .. } in events {
        let prev_events: BTreeSet<Id> =
            prev_events.into_iter().filter(|it| positions.contains_key(it)).collect();
        waits_for.insert(id, prev_events.len());
        for prev in prev_events {
            followers.entry(prev).or_default().push(id);
        }
    }
    let oldest = |id: Id| Reverse((positions.get(&id).copied(), id));
    let mut ready: BinaryHeap<_> =
        waits_for.iter().filter(|(_, count)| **count == 0).map(|(id, _)| oldest(*id)).collect();
    let mut ordered = Vec::with_capacity(positions.len());
    while let Some(Reverse((_, id))) = ready.pop() {
        ordered.push(id);
        waits_for.remove(&id);
        for follower in followers.remove(&id).unwrap_or_default() {
            if let Some(count) = waits_for.get_mut(&follower) {
                *count -= 1;
                if *count == 0 {
                    ready.push(oldest(follower));
                }
            }
        }
    }
    let mut on_cycles: Vec<_> = waits_for.into_keys().map(oldest).collect();
    on_cycles.sort_by(|left, right| right.cmp(left));
    ordered.extend(on_cycles.into_iter().map(|Reverse((_, id))| id));
    ordered
}

//! Putting events in an order that a receiver can process from start to end.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use super::Node;

/// Orders events so that each stands after those of its predecessors that are among them; where
/// that leaves a choice, by depth, then by arrival. On a cycle (which hashes make impossible, but
/// room versions 1 and 2 choose their ids) what lies on it is left in the order of places.
pub(super) fn oldest_first<Id: Copy + Ord>(
    events: &[Id],
    nodes: &BTreeMap<Id, Node<Id>>,
) -> Vec<Id> {
    let among: BTreeSet<Id> = events.iter().copied().collect();
    let mut followers: BTreeMap<Id, Vec<Id>> = BTreeMap::new();
    let mut waits_for: BTreeMap<Id, usize> = BTreeMap::new();
    for &id in &among {
        let prev_events: BTreeSet<Id> = nodes
            .get(&id)
            .map(|it| it.prev_events.iter().copied().filter(|prev| among.contains(prev)).collect())
            .unwrap_or_default();
        waits_for.insert(id, prev_events.len());
        for prev in prev_events {
            followers.entry(prev).or_default().push(id);
        }
    }
    let placed = |id: Id| Reverse((nodes.get(&id).map(|it| it.place), id));
    let mut ready: BinaryHeap<_> =
        waits_for.iter().filter(|(_, count)| **count == 0).map(|(id, _)| placed(*id)).collect();
    let mut ordered = Vec::with_capacity(events.len());
    while let Some(Reverse((_, id))) = ready.pop() {
        ordered.push(id);
        waits_for.remove(&id);
        for follower in followers.remove(&id).unwrap_or_default() {
            if let Some(count) = waits_for.get_mut(&follower) {
                *count -= 1;
                if *count == 0 {
                    ready.push(placed(follower));
                }
            }
        }
    }
    let mut on_cycles: Vec<_> = waits_for.into_keys().map(placed).collect();
    on_cycles.sort_by(|left, right| right.cmp(left));
    ordered.extend(on_cycles.into_iter().map(|Reverse((_, id))| id));
    ordered
}

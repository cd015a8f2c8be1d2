//! Walking back in time, the newest first: the walk of `/backfill`.

use std::collections::{BTreeSet, BinaryHeap};

use super::{End, Lookups, Node, Place, Walk};

/// Collects up to `limit` servable events: those of `from`, and what precedes them. The next
/// event walked is always the greatest by depth, then by arrival, of all that is in reach. `has_room`
/// is asked about each event that is found, in that order, and ends the walk before it by saying no.
///
/// # Errors
/// When a lookup fails.
pub fn walk_back<Id: Copy + Ord, E>(
    from: &[Id],
    limit: usize,
    budget: u32,
    node: impl FnMut(Id) -> Result<Option<Node<Id>>, E>,
    mut has_room: impl FnMut(Id) -> Result<bool, E>,
) -> Result<Walk<Id>, E> {
    let mut nodes = Lookups::new(budget, node);
    let mut queued = BTreeSet::new();
    let mut heap: BinaryHeap<(Place, Id)> = BinaryHeap::new();
    let mut found: Vec<(Place, Id)> = Vec::new();
    let mut gaps = Vec::new();
    let mut end = End::Exhausted;
    for &id in from {
        if queued.insert(id) && !nodes.is_spent() {
            heap.extend(nodes.look_up(id)?.map(|it| (it.place, id)));
        }
    }
    while let Some((place, id)) = heap.pop() {
        let Some(Node { servable, prev_events, has_gap, .. }) = nodes.known.remove(&id) else {
            continue;
        };
        if servable {
            if !has_room(id)? {
                end = End::Size;
                break;
            }
            found.push((place, id));
        }
        if has_gap {
            gaps.push(id);
        }
        if found.len() >= limit {
            if !heap.is_empty() || prev_events.iter().any(|it| !queued.contains(it)) {
                end = End::Limit;
            }
            break;
        }
        for prev in prev_events {
            if !queued.insert(prev) {
                continue;
            }
            if nodes.is_spent() {
                end = End::Budget;
                break;
            }
            heap.extend(nodes.look_up(prev)?.map(|it| (it.place, prev)));
        }
        if end == End::Budget {
            break;
        }
    }
    // Depth need not fall along edges, so the order of the walk is not yet that of the answer.
    found.sort_by(|left, right| right.cmp(left));
    let found = found.into_iter().map(|(_, id)| id).collect();
    Ok(Walk { found, gaps, end, visited: nodes.visited })
}

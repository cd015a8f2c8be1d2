//! Walking breadth first between what is newest and what is known: the walk of
//! `/get_missing_events`.

use std::collections::{BTreeSet, VecDeque};

use super::{End, Lookups, Node, Walk, order::oldest_first};

/// Between which events to look.
#[derive(Clone, Copy, Debug)]
pub struct Between<'a, Id> {
    /// Neither found nor walked through.
    pub earliest: &'a [Id],
    /// Where to start, in this order; never found.
    pub latest: &'a [Id],
    /// Events of a lower depth are neither found nor walked through.
    pub min_depth: i64,
}

/// Collects up to `limit` servable events that precede `latest`, the nearest first, in the order
/// in which they are referenced; gives them back oldest first. `has_room` is asked about each event
/// that is found, nearest first, and ends the walk before it by saying no: what is left is connected
/// to `latest`.
///
/// # Errors
/// When a lookup fails.
pub fn walk_missing<Id: Copy + Ord, E>(
    between: Between<'_, Id>,
    limit: usize,
    budget: u32,
    node: impl FnMut(Id) -> Result<Option<Node<Id>>, E>,
    mut has_room: impl FnMut(Id) -> Result<bool, E>,
) -> Result<Walk<Id>, E> {
    let Between { earliest, latest, min_depth } = between;
    let mut nodes = Lookups::new(budget, node);
    let mut seen: BTreeSet<Id> = earliest.iter().copied().collect();
    let mut queue = VecDeque::new();
    let mut found = Vec::new();
    let mut gaps = Vec::new();
    for &id in latest {
        if seen.insert(id) && !nodes.is_spent() && nodes.look_up(id)?.is_some() {
            queue.push_back(id);
        }
    }
    let mut end = None;
    'walk: while let Some(id) = queue.pop_front() {
        if found.len() >= limit {
            end = Some(End::Limit);
            break;
        }
        let Some(Node { prev_events, has_gap, .. }) = nodes.known.get(&id).cloned() else {
            continue;
        };
        if has_gap {
            gaps.push(id);
        }
        for prev in prev_events {
            if !seen.insert(prev) {
                continue;
            }
            if nodes.is_spent() {
                end = Some(End::Budget);
                break 'walk;
            }
            let Some(node) = nodes.look_up(prev)? else { continue };
            if node.place.depth < min_depth {
                continue;
            }
            if node.servable {
                if found.len() >= limit {
                    end = Some(End::Limit);
                    break 'walk;
                }
                if !has_room(prev)? {
                    end = Some(End::Size);
                    break 'walk;
                }
                found.push(prev);
            }
            queue.push_back(prev);
        }
    }
    let found = oldest_first(&found, &nodes.known);
    let end = end.unwrap_or(End::Exhausted);
    Ok(Walk { found, gaps, end, visited: nodes.visited })
}

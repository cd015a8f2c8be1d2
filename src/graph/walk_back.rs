//! Walking back in time, newest event first: the walk of `/backfill`.

use std::collections::BTreeMap;

use super::{
    Position, WalkEnd, WalkNode, WalkResult,
    walker::{Stop, Walker},
};

/// Collects up to `limit` servable events: those of `from`, and what precedes them. The next event
/// walked to is always the greatest by position of all that are in reach.
///
/// `look` looks an event up; it is called at most `budget` times. `take` adds an event to the
/// answer, or returns false if the answer has no space for it: then the walk ends. It is called in
/// the order of the walk.
///
/// # Errors
/// The first error of a closure.
pub fn walk_back<Id: Copy + Ord, Event, E>(
    from: &[Id],
    limit: usize,
    budget: u32,
    look: impl FnMut(Id) -> Result<Option<WalkNode<Id, Event>>, E>,
    take: impl FnMut(Id, Event) -> Result<bool, E>,
) -> Result<WalkResult<Id>, E> {
    let mut walker = Walker::new(budget, look, take);
    let mut found = Vec::new();
    let walked = walk(&mut walker, &mut found, from, limit);
    // Depth need not fall along edges, so the order of the walk is not the order of the answer.
    found.sort_by(|left, right| right.cmp(left));
    walker.finish(walked, found.into_iter().map(|(_, id)| id).collect())
}

fn walk<Id, Event, E, Look, Take>(
    walker: &mut Walker<Id, Look, Take>,
    found: &mut Vec<(Position, Id)>,
    from: &[Id],
    limit: usize,
) -> Result<(), Stop<E>>
where
    Id: Copy + Ord,
    Look: FnMut(Id) -> Result<Option<WalkNode<Id, Event>>, E>,
    Take: FnMut(Id, Event) -> Result<bool, E>,
{
    let mut reach = BTreeMap::new();
    for &id in from {
        if let Some(node) = walker.look_up(id)? {
            reach.insert((node.position, id), node);
        }
    }
    while let Some(((position, id), node)) = reach.pop_last() {
        let WalkNode { servable, prev_events, has_gap, event, .. } = node;
        if servable {
            walker.take(id, event)?;
            found.push((position, id));
        }
        if has_gap {
            walker.note_gap(id);
        }
        if found.len() >= limit {
            let has_more = !reach.is_empty() || prev_events.iter().any(|it| !walker.has_seen(*it));
            return if has_more { Err(Stop::End(WalkEnd::Limit)) } else { Ok(()) };
        }
        for prev in prev_events {
            if let Some(node) = walker.look_up(prev)? {
                reach.insert((node.position, prev), node);
            }
        }
    }
    Ok(())
}

//! Walking breadth first from the newest events back to known ones: the walk of
//! `/get_missing_events`.

use std::collections::VecDeque;

use super::{
    WalkEnd, WalkNode, WalkResult,
    order::{Located, oldest_first},
    walker::{Stop, Walker},
};

/// The bounds of a walk in the graph.
#[derive(Clone, Copy, Debug)]
pub struct Between<'a, Id> {
    /// Neither found nor walked through.
    pub earliest: &'a [Id],
    /// The walk starts here, in this order. These events are never found.
    pub latest: &'a [Id],
    /// Events of a lower depth are neither found nor walked through.
    pub min_depth: i64,
}

/// Collects up to `limit` servable events that precede `latest`: the nearest first, in the order
/// in which they are referenced. The result lists them oldest first.
///
/// `look` looks an event up; it is called at most `budget` times. `take` adds an event to the
/// answer, or returns false if the answer has no space for it: then the walk ends. It is called
/// for the nearest events first, so whatever was taken is connected to `latest`.
///
/// # Errors
/// The first error of a closure.
pub fn walk_missing<Id: Copy + Ord, Event, E>(
    between: Between<'_, Id>,
    limit: usize,
    budget: u32,
    look: impl FnMut(Id) -> Result<Option<WalkNode<Id, Event>>, E>,
    take: impl FnMut(Id, Event) -> Result<bool, E>,
) -> Result<WalkResult<Id>, E> {
    let mut walker = Walker::new(budget, look, take);
    let mut found = Vec::new();
    let walked = walk(&mut walker, &mut found, between, limit);
    walker.finish(walked, oldest_first(found))
}

/// An event whose predecessors are walked to next.
struct Queued<Id> {
    id: Id,
    prev_events: Vec<Id>,
    has_gap: bool,
}

fn walk<Id, Event, E, Look, Take>(
    walker: &mut Walker<Id, Look, Take>,
    found: &mut Vec<Located<Id>>,
    between: Between<'_, Id>,
    limit: usize,
) -> Result<(), Stop<E>>
where
    Id: Copy + Ord,
    Look: FnMut(Id) -> Result<Option<WalkNode<Id, Event>>, E>,
    Take: FnMut(Id, Event) -> Result<bool, E>,
{
    let Between { earliest, latest, min_depth } = between;
    walker.exclude(earliest);
    let mut queue = VecDeque::new();
    for &id in latest {
        if let Some(WalkNode { prev_events, has_gap, .. }) = walker.look_up(id)? {
            queue.push_back(Queued { id, prev_events, has_gap });
        }
    }
    while let Some(Queued { id, prev_events, has_gap }) = queue.pop_front() {
        if found.len() >= limit {
            return Err(Stop::End(WalkEnd::Limit));
        }
        if has_gap {
            walker.note_gap(id);
        }
        for id in prev_events {
            let Some(node) = walker.look_up(id)? else { continue };
            let WalkNode { position, servable, prev_events, has_gap, event } = node;
            if position.depth < min_depth {
                continue;
            }
            if servable {
                if found.len() >= limit {
                    return Err(Stop::End(WalkEnd::Limit));
                }
                walker.take(id, event)?;
                found.push(Located { id, position, prev_events: prev_events.clone() });
            }
            queue.push_back(Queued { id, prev_events, has_gap });
        }
    }
    Ok(())
}

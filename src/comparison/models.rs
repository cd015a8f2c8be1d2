//! Both walks with a choice of rules: without any, our rules; with a rule, the homeserver's in its place.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, VecDeque},
    rc::Rc,
};

use super::{
    AskedWalk, DifferenceReason as R, Reasons,
    known::{KnownEvent, KnownEvents},
    layers,
};
use crate::graph::Position;

/// The bounds of a walk of `/get_missing_events`.
#[derive(Clone, Copy)]
pub(super) struct MissingBounds<'a> {
    pub(super) earliest: &'a [String],
    pub(super) latest: &'a [String],
    pub(super) limit: usize,
    pub(super) min_depth: i64,
}

/// An event that a walk found.
pub(super) struct FoundEvent {
    id: String,
    event: Rc<KnownEvent>,
}

/// Whether a walk under these rules gives an answer: its ids in order for `/backfill`, the set of its
/// ids for `/get_missing_events`.
pub(super) fn gives<E>(
    asked: AskedWalk<'_>,
    rules: Reasons,
    answer: &[String],
    events: &KnownEvents<'_, E>,
) -> Result<bool, E> {
    match asked {
        AskedWalk::Back { from, limit } => {
            let found = walk_back(from, limit, rules, events)?;
            Ok(is_list(&found, rules, answer))
        }
        AskedWalk::Missing { earliest, latest, limit, min_depth } => {
            let bounds = MissingBounds { earliest, latest, limit, min_depth };
            if rules.contains(R::Limit) {
                return layers::may_give(bounds, rules, answer, events);
            }
            Ok(is_set(&walk_missing(bounds, rules, events)?, rules, answer))
        }
    }
}

/// Whether a walk under our rules finds all events of an answer that may have ended early.
pub(super) fn has_all<E>(
    asked: AskedWalk<'_>,
    answer: &[String],
    events: &KnownEvents<'_, E>,
) -> Result<bool, E> {
    let found = match asked {
        AskedWalk::Back { from, limit } => walk_back(from, limit, Reasons::default(), events)?,
        AskedWalk::Missing { earliest, latest, limit, min_depth } => {
            let bounds = MissingBounds { earliest, latest, limit, min_depth };
            walk_missing(bounds, Reasons::default(), events)?
        }
    };
    let found: BTreeSet<&str> = found.iter().map(|it| &*it.id).collect();
    Ok(answer.iter().all(|it| found.contains(&**it)))
}

/// Whether a walk under these rules meets an event at all.
pub(super) fn is_met(event: &KnownEvent, rules: Reasons) -> bool {
    (!event.outlier || rules.contains(R::Outliers))
        && (!event.of_other_room || rules.contains(R::OtherRooms))
}

/// Whether an event that is met is part of the answer.
pub(super) fn is_returned(event: &KnownEvent, rules: Reasons) -> bool {
    !event.rejected && (!event.unservable || rules.contains(R::UnservableEvents))
}

/// Whether an event that is met counts towards the limit.
fn is_counted(event: &KnownEvent, rules: Reasons) -> bool {
    is_returned(event, rules) || (event.rejected && rules.contains(R::RejectedEvents))
}

/// The predecessors to which a walk goes on from an event.
pub(super) fn predecessors(event: &KnownEvent, rules: Reasons) -> &[String] {
    if event.rejected && rules.contains(R::RejectedEvents) { &[] } else { &event.prev_events }
}

/// Whether an event that the walk returns may be missing in the answer.
pub(super) fn is_optional(event: &KnownEvent, rules: Reasons) -> bool {
    event.may_be_withheld && rules.contains(R::RedactionsWithheld)
}

fn is_list(found: &[FoundEvent], rules: Reasons, answer: &[String]) -> bool {
    let mut answer = answer.iter().peekable();
    let all_in_order = found
        .iter()
        .all(|it| answer.next_if(|id| **id == it.id).is_some() || is_optional(&it.event, rules));
    all_in_order && answer.next().is_none()
}

fn is_set(found: &[FoundEvent], rules: Reasons, answer: &[String]) -> bool {
    let mut left: BTreeSet<&str> = answer.iter().map(String::as_str).collect();
    let has_doubles = left.len() != answer.len();
    let has_all = found.iter().all(|it| left.remove(&*it.id) || is_optional(&it.event, rules));
    has_all && left.is_empty() && !has_doubles
}

/// The events of `/backfill`, in the order of the answer.
fn walk_back<E>(
    from: &[String],
    limit: usize,
    rules: Reasons,
    events: &KnownEvents<'_, E>,
) -> Result<Vec<FoundEvent>, E> {
    let mut reach: BTreeSet<(Position, String)> = BTreeSet::new();
    for id in from {
        if let Some(event) = events.get(id)?.filter(|it| is_met(it, rules)) {
            reach.insert((event.position, id.clone()));
        }
    }
    let mut done = BTreeSet::new();
    let mut found = Vec::new();
    let mut counted = 0;
    while counted < limit
        && let Some((_, id)) = reach.pop_last()
    {
        let Some(event) = events.get(&id)? else { continue };
        if !done.insert(id.clone()) {
            continue;
        }
        counted += usize::from(is_counted(&event, rules));
        for prev in predecessors(&event, rules) {
            // Only an event to start from may be an outlier.
            if let Some(before) = events.get(prev)?
                && !before.outlier
                && !done.contains(prev)
            {
                reach.insert((before.position, prev.clone()));
            }
        }
        if is_returned(&event, rules) {
            found.push(FoundEvent { id, event });
        }
    }
    found.sort_by_key(|it| Reverse(it.event.position));
    Ok(found)
}

/// The events of `/get_missing_events`, in the order of the walk, where events are taken in the order in
/// which they are referenced.
fn walk_missing<E>(
    bounds: MissingBounds<'_>,
    rules: Reasons,
    events: &KnownEvents<'_, E>,
) -> Result<Vec<FoundEvent>, E> {
    let mut seen = excluded(bounds, rules);
    let mut queue: VecDeque<Rc<KnownEvent>> = VecDeque::new();
    for id in start(bounds) {
        queue.extend(events.get(&id)?.filter(|it| is_met(it, rules)));
    }
    let mut found = Vec::new();
    let mut counted = 0;
    while let Some(next) = queue.pop_front() {
        for prev in predecessors(&next, rules) {
            if counted >= bounds.limit {
                return Ok(found);
            }
            if !seen.insert(prev.clone()) {
                continue;
            }
            let Some(event) = events.get(prev)? else { continue };
            if !is_met(&event, rules) || is_below(&event, bounds, rules) {
                continue;
            }
            counted += usize::from(is_counted(&event, rules));
            if is_returned(&event, rules) {
                found.push(FoundEvent { id: prev.clone(), event: Rc::clone(&event) });
            }
            queue.push_back(event);
        }
    }
    Ok(found)
}

/// The events to start from, each once.
pub(super) fn start(bounds: MissingBounds<'_>) -> Vec<String> {
    let mut seen: BTreeSet<&str> = bounds.earliest.iter().map(String::as_str).collect();
    bounds.latest.iter().filter(|it| seen.insert(it)).cloned().collect()
}

/// The events that a walk never returns.
pub(super) fn excluded(bounds: MissingBounds<'_>, rules: Reasons) -> BTreeSet<String> {
    let latest = if rules.contains(R::LatestEvents) { &[] } else { bounds.latest };
    bounds.earliest.iter().chain(latest).cloned().collect()
}

/// Whether `min_depth` excludes an event.
pub(super) fn is_below(event: &KnownEvent, bounds: MissingBounds<'_>, rules: Reasons) -> bool {
    event.position.depth < bounds.min_depth && !rules.contains(R::MinDepth)
}

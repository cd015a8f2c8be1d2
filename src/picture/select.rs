//! Selects the events that are near given events in the graph.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{DrawnEvent, MAX_EVENTS};

/// The events within `steps` edges of the seeds, in either direction, in the given order. If there
/// are more than [`MAX_EVENTS`], the nearest ones.
#[must_use]
pub fn near(events: Vec<DrawnEvent>, seeds: &[String], steps: usize) -> Vec<DrawnEvent> {
    let positions: BTreeMap<&str, usize> =
        events.iter().enumerate().map(|(position, it)| (&*it.event_id, position)).collect();
    let mut neighbours = vec![Vec::new(); events.len()];
    for (position, event) in events.iter().enumerate() {
        for prev in event.prev_events.iter().filter_map(|it| positions.get(&**it)) {
            for (of, other) in [(position, *prev), (*prev, position)] {
                neighbours.get_mut(of).into_iter().for_each(|it: &mut Vec<usize>| it.push(other));
            }
        }
    }
    let mut queue: VecDeque<(usize, usize)> =
        seeds.iter().filter_map(|it| Some((*positions.get(&**it)?, 0))).collect();
    let mut chosen = BTreeSet::new();
    while let Some((position, distance)) = queue.pop_front() {
        if chosen.len() >= MAX_EVENTS || !chosen.insert(position) || distance >= steps {
            continue;
        }
        let next = neighbours.get(position).into_iter().flatten();
        queue.extend(next.filter(|it| !chosen.contains(*it)).map(|it| (*it, distance + 1)));
    }
    let mut position = 0..;
    let is_chosen = |_: &DrawnEvent| position.next().is_some_and(|it| chosen.contains(&it));
    let mut events = events;
    events.retain(is_chosen);
    events
}

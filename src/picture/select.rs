//! Which events are near some others, in the graph's own measure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Event, MAX_EVENTS};

/// The events that lie within so many edges of the seeds, in either direction; nearer ones first
/// where there are more than [`MAX_EVENTS`]. In the order in which they were given.
#[must_use]
pub fn near(events: Vec<Event>, seeds: &[String], steps: usize) -> Vec<Event> {
    let places: BTreeMap<&str, usize> =
        events.iter().enumerate().map(|(place, it)| (&*it.event_id, place)).collect();
    let mut neighbours = vec![Vec::new(); events.len()];
    for (place, event) in events.iter().enumerate() {
        for prev in event.prev_events.iter().filter_map(|it| places.get(&**it)) {
            for (of, other) in [(place, *prev), (*prev, place)] {
                neighbours.get_mut(of).into_iter().for_each(|it: &mut Vec<usize>| it.push(other));
            }
        }
    }
    let mut queue: VecDeque<(usize, usize)> =
        seeds.iter().filter_map(|it| Some((*places.get(&**it)?, 0))).collect();
    let mut chosen = BTreeSet::new();
    while let Some((place, distance)) = queue.pop_front() {
        if chosen.len() >= MAX_EVENTS || !chosen.insert(place) || distance >= steps {
            continue;
        }
        let next = neighbours.get(place).into_iter().flatten();
        queue.extend(next.filter(|it| !chosen.contains(*it)).map(|it| (*it, distance + 1)));
    }
    let mut place = 0..;
    let is_chosen = |_: &Event| place.next().is_some_and(|it| chosen.contains(&it));
    let mut events = events;
    events.retain(is_chosen);
    events
}

//! The homeserver's walk of `/get_missing_events`: layer by layer, the events of a layer in an arbitrary
//! order, and every id counts towards the limit, also one that is not held or not returned.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use super::{
    Reasons,
    known::{KnownEvent, KnownEvents},
    models::{
        MissingBounds, excluded, is_below, is_met, is_optional, is_returned, predecessors, start,
    },
};

/// The layers that the walk takes completely, whatever the order.
struct Complete {
    /// All ids that were met or cannot be met.
    seen: BTreeSet<String>,
    /// The ids of these layers, in their order.
    ids: Vec<String>,
    /// The last layer, from which the walk goes on. Empty if it does not go on.
    front: Vec<String>,
}

/// Whether an answer is one that this walk may give.
pub(super) fn may_give<E>(
    bounds: MissingBounds<'_>,
    rules: Reasons,
    answer: &[String],
    events: &KnownEvents<'_, E>,
) -> Result<bool, E> {
    let mut rest: BTreeSet<&str> = answer.iter().map(String::as_str).collect();
    if rest.len() != answer.len() {
        return Ok(false);
    }
    let complete = complete_layers(bounds, rules, events)?;
    for id in &complete.ids {
        let returned = events.get(id)?.filter(|it| is_returned(it, rules));
        let Some(event) = returned else { continue };
        if !rest.remove(&**id) && !is_optional(&event, rules) {
            return Ok(false);
        }
    }
    if complete.front.is_empty() {
        return Ok(rest.is_empty());
    }
    let left = bounds.limit.saturating_sub(complete.ids.len());
    is_part_of_next_layers(&complete, &rest, left, &Walk { bounds, rules, events })
}

/// The ids to which one layer leads.
struct Layer {
    /// The ids that were not seen before, each once.
    ids: Vec<String>,
    /// How many events of the layer before reference each of them.
    references: BTreeMap<String, usize>,
    /// The predecessors of each event of the layer before.
    prev_events: Vec<Vec<String>>,
}

impl Layer {
    /// Whether the walk takes all of these ids whatever the order, when `left` more ids count. Of each
    /// event, it reads only as many predecessors as the limit leaves at that moment.
    fn is_complete(&self, left: usize) -> bool {
        let reads_all = |prev_events: &Vec<String>| {
            let is_only_here = |it: &&String| self.references.get(*it) == Some(&1);
            let only_here = prev_events.iter().filter(is_only_here).count();
            let taken_before = self.ids.len().saturating_sub(only_here);
            prev_events.len() <= left.saturating_sub(taken_before)
        };
        self.ids.len() <= left && self.prev_events.iter().all(reads_all)
    }
}

/// A walk under some rules.
struct Walk<'a, E> {
    bounds: MissingBounds<'a>,
    rules: Reasons,
    events: &'a KnownEvents<'a, E>,
}

fn complete_layers<E>(
    bounds: MissingBounds<'_>,
    rules: Reasons,
    events: &KnownEvents<'_, E>,
) -> Result<Complete, E> {
    let walk = Walk { bounds, rules, events };
    let front = start(bounds);
    let mut complete = Complete { seen: excluded(bounds, rules), ids: Vec::new(), front };
    while !complete.front.is_empty() && complete.ids.len() < bounds.limit {
        let left = bounds.limit - complete.ids.len();
        let layer = walk.layer(&complete)?;
        if !layer.is_complete(left) {
            return Ok(complete);
        }
        complete.ids.extend(layer.ids.iter().cloned());
        complete.seen.extend(layer.ids.iter().cloned());
        complete.front = layer.ids;
    }
    complete.front.clear();
    Ok(complete)
}

impl<E> Walk<'_, E> {
    /// The ids to which the walk goes on from the last complete layer.
    fn layer(&self, complete: &Complete) -> Result<Layer, E> {
        let mut layer =
            Layer { ids: Vec::new(), references: BTreeMap::new(), prev_events: Vec::new() };
        for id in &complete.front {
            let Some(event) = self.met(id)? else { continue };
            let prev_events = predecessors(&event, self.rules);
            for prev in prev_events {
                if complete.seen.contains(prev) || !self.is_entered(prev)? {
                    continue;
                }
                let references = layer.references.entry(prev.clone()).or_default();
                *references += 1;
                if *references == 1 {
                    layer.ids.push(prev.clone());
                }
            }
            layer.prev_events.push(prev_events.to_vec());
        }
        Ok(layer)
    }

    /// An event of the front that is held and met.
    fn met(&self, id: &str) -> Result<Option<Rc<KnownEvent>>, E> {
        Ok(self.events.get(id)?.filter(|it| is_met(it, self.rules)))
    }

    /// Whether the walk enters an id. One that is not held counts, but leads nowhere.
    fn is_entered(&self, id: &str) -> Result<bool, E> {
        let Some(event) = self.events.get(id)? else { return Ok(true) };
        Ok(is_met(&event, self.rules) && !is_below(&event, self.bounds, self.rules))
    }
}

/// Whether the rest of an answer is what a walk may take of the next layers when only `left` more ids
/// count: each of its events follows from the complete layers through events that are taken too, there
/// are not too many, and as many as there can be.
fn is_part_of_next_layers<E>(
    complete: &Complete,
    rest: &BTreeSet<&str>,
    left: usize,
    walk: &Walk<'_, E>,
) -> Result<bool, E> {
    let mut queue: Vec<String> = complete.front.clone();
    // Ids that the walk met, and whether the answer has them.
    let mut met: BTreeMap<String, bool> = BTreeMap::new();
    let mut not_returned = 0;
    let mut left_out = false;
    while let Some(id) = queue.pop() {
        let Some(event) = walk.met(&id)? else { continue };
        for prev in predecessors(&event, walk.rules) {
            if complete.seen.contains(prev)
                || met.contains_key(prev)
                || !walk.is_entered(prev)?
                || walk.events.is_exhausted()
            {
                continue;
            }
            let in_answer = rest.contains(&**prev);
            met.insert(prev.clone(), in_answer);
            let returned = walk.events.get(prev)?.filter(|it| is_returned(it, walk.rules));
            match returned {
                _ if in_answer => queue.push(prev.clone()),
                Some(event) if !is_optional(&event, walk.rules) => left_out = true,
                Some(_) | None => {
                    not_returned += 1;
                    queue.push(prev.clone());
                }
            }
        }
    }
    let found = met.values().filter(|it| **it).count();
    let is_full = found + not_returned >= left || !left_out;
    Ok(found == rest.len() && found <= left && is_full)
}

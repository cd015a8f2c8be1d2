//! Forward extremities: accepted events that no accepted event follows, neither directly nor
//! through events that were not accepted. They depend on the graph alone, not on the order in which
//! events are received.
//!
//! The flags of an event tell whether it is one; the store updates its list of them whenever it
//! writes a node.

use crate::store::{Edit, EventNum, PrevEvent, StoreError};

/// The most events that are marked as followed in one decision. Other servers choose the length of
/// a chain of events that were not accepted; a note on disk keeps the rest.
const MAX_MARKED: usize = 256;

/// Marks the events that a newly placed event follows. Returns those that were forward extremities
/// until now.
pub(super) fn place(edit: &mut Edit<'_>, event: EventNum) -> Result<Vec<EventNum>, StoreError> {
    let node = edit.node(event)?;
    if node.flags.is_accepted() || node.flags.followed {
        return follow(edit, &node.prev_events);
    }
    Ok(Vec::new())
}

/// Marks a newly placed event as followed by `follower`, which was placed before, if that follower
/// counts.
pub(super) fn followed_by(
    edit: &mut Edit<'_>,
    event: EventNum,
    follower: EventNum,
) -> Result<(), StoreError> {
    let flags = edit.node(follower)?.flags;
    if flags.is_accepted() || flags.followed {
        follow(edit, &[PrevEvent::Held(event)])?;
    }
    Ok(())
}

/// Marks events as followed, and the predecessors of those that were not accepted. Returns the
/// events that were forward extremities until now.
pub(super) fn follow(
    edit: &mut Edit<'_>,
    prev_events: &[PrevEvent],
) -> Result<Vec<EventNum>, StoreError> {
    let mut marked = Marked::default();
    // Events that were not accepted: their predecessors are followed, too.
    let mut passed: Vec<EventNum> = mark(edit, prev_events, &mut marked)?;
    while let Some(event) = passed.pop() {
        if marked.count >= MAX_MARKED {
            edit.put_unfinished(event);
            continue;
        }
        let prev_events = edit.node(event)?.prev_events;
        passed.extend(mark(edit, &prev_events, &mut marked)?);
    }
    Ok(marked.extremities)
}

/// The events that were marked as followed.
#[derive(Default)]
struct Marked {
    count: usize,
    /// Those that were forward extremities.
    extremities: Vec<EventNum>,
}

/// Marks events as followed. Returns those that were not accepted and were not marked before.
fn mark(
    edit: &mut Edit<'_>,
    events: &[PrevEvent],
    marked: &mut Marked,
) -> Result<Vec<EventNum>, StoreError> {
    let mut passed = Vec::new();
    for edge in events {
        let PrevEvent::Held(event) = *edge else { continue };
        let mut node = edit.node(event)?;
        if node.flags.followed {
            continue;
        }
        if node.flags.is_accepted() {
            marked.extremities.push(event);
        } else {
            passed.push(event);
        }
        node.flags.followed = true;
        edit.put_node(event, node)?;
        marked.count += 1;
    }
    Ok(passed)
}

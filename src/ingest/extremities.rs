//! Forward extremities: accepted events that nothing accepted follows, neither directly nor
//! through events that were not accepted. Which they are depends on the graph alone, not on the
//! order in which it came.
//!
//! An event is one by its flags; the store lists those that are whenever it writes a node.

use crate::store::{Edit, EventNum, PrevEvent, StoreError};

/// Events that are marked as followed in one go. Strangers choose how long a line of events is that
/// were not accepted; the rest of it is left to a note.
const MARKED_AT_ONCE: usize = 256;

/// Takes a newly placed event into account. Gives back what is no forward extremity any more.
pub(super) fn place(edit: &mut Edit<'_>, event: EventNum) -> Result<Vec<EventNum>, StoreError> {
    let node = edit.node(event)?;
    if node.flags.is_accepted() || node.flags.followed {
        return follow(edit, &node.prev_events);
    }
    Ok(Vec::new())
}

/// Takes into account that `follower`, which was here before, follows `event`, which has just
/// come.
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

/// Marks events as followed, and through those that were not accepted their predecessors. Gives
/// back those that were forward extremities until then.
pub(super) fn follow(
    edit: &mut Edit<'_>,
    prev_events: &[PrevEvent],
) -> Result<Vec<EventNum>, StoreError> {
    let mut marked = Marked::default();
    // Events whose predecessors are followed, too.
    let mut passed: Vec<EventNum> = mark(edit, prev_events, &mut marked)?;
    while let Some(event) = passed.pop() {
        if marked.count >= MARKED_AT_ONCE {
            edit.put_unfinished(event);
            continue;
        }
        let prev_events = edit.node(event)?.prev_events;
        passed.extend(mark(edit, &prev_events, &mut marked)?);
    }
    Ok(marked.extremities)
}

/// What was marked as followed.
#[derive(Default)]
struct Marked {
    count: usize,
    /// The forward extremities among it.
    extremities: Vec<EventNum>,
}

/// Marks events as followed. Those of them that were not accepted, and were not marked before.
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

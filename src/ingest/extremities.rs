//! Forward extremities: accepted events that nothing accepted follows, neither directly nor
//! through events that were not accepted. Which they are depends on the graph alone, not on the
//! order in which it came.

use crate::store::{Edit, EventNum, Flags, PrevEvent, StoreError};

/// Whether an event counts as the room's own: only such an event follows another.
fn is_accepted(flags: Flags) -> bool {
    !flags.outlier && !flags.rejected && !flags.soft_failed
}

/// Takes a newly placed event into account. Gives back what is no forward extremity any more.
pub(super) fn place(edit: &mut Edit<'_>, event: EventNum) -> Result<Vec<EventNum>, StoreError> {
    let node = edit.node(event)?;
    if is_accepted(node.flags) && !node.flags.followed {
        let extremities = &mut edit.room.forward_extremities;
        if let Err(at) = extremities.binary_search(&event) {
            extremities.insert(at, event);
        }
    }
    if is_accepted(node.flags) || node.flags.followed {
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
    if is_accepted(flags) || flags.followed {
        let mut node = edit.node(event)?;
        node.flags.followed = true;
        edit.put_node(event, node)?;
    }
    Ok(())
}

/// Marks events as followed, and through those that were not accepted their predecessors. Gives
/// back those that were forward extremities until then.
fn follow(edit: &mut Edit<'_>, prev_events: &[PrevEvent]) -> Result<Vec<EventNum>, StoreError> {
    let mut followed = Vec::new();
    let mut next: Vec<PrevEvent> = prev_events.to_vec();
    while let Some(edge) = next.pop() {
        let PrevEvent::Held(event) = edge else { continue };
        let mut node = edit.node(event)?;
        if node.flags.followed {
            continue;
        }
        if is_accepted(node.flags) {
            let extremities = &mut edit.room.forward_extremities;
            if let Ok(at) = extremities.binary_search(&event) {
                extremities.remove(at);
                followed.push(event);
            }
        } else {
            next.extend(node.prev_events.iter().copied());
        }
        node.flags.followed = true;
        edit.put_node(event, node)?;
    }
    Ok(followed)
}

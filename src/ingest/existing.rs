//! Step 4: what a room holds under the id of a new event, and whether that is the same event.

use super::{
    NewEvent, Refusal, Verdict,
    check::Checked,
    refusal::NotTaken,
    replace::{self, NewBody, Replace, Replacement},
};
use crate::store::{Edit, EventNum, View};

/// What a room holds under the id of a new event.
pub(super) enum Existing {
    /// The room does not hold the event.
    None,
    /// The same event. It stays where it is.
    Held(HeldEvent),
    /// The same event, as an outlier. It is to be placed in the graph now.
    Outlier {
        number: EventNum,
        body: Option<NewBody>,
        /// Whether it was rejected as an outlier, or is rejected now, but not both.
        is_rejection_changed: bool,
    },
    /// The same event, as an outlier that a purge has left. It must not be placed again.
    Purged,
}

/// An event that a room holds.
pub(super) struct HeldEvent {
    pub(super) number: EventNum,
    /// What the new event replaces of it.
    pub(super) replacement: Replacement,
    /// Whether it is in the graph, and the state after it may be given now: it is not known, or it was
    /// given and the verdict changes.
    pub(super) takes_state: bool,
}

/// Looks up what a room holds under the id of a new event. Refuses the event if that is another one;
/// and, unless the event may be replaced, if that has other bytes or another verdict.
pub(super) fn existing(
    edit: &Edit<'_>,
    event: &NewEvent<'_>,
    checked: &Checked,
) -> Result<Existing, NotTaken> {
    let event_id = checked.event.event_id().as_str();
    let Some(number) = edit.event_num(edit.room_num(), event_id)? else {
        return Ok(Existing::None);
    };
    let body = replace::compare(edit, number, event, checked)?;
    let node = edit.node(number)?;
    let flags = node.flags;
    let is_replaced = event.replace != Replace::Never;
    let verdict = Verdict::of_flags(flags.rejected, flags.soft_failed);
    let refused = |text| Err(NotTaken::refused(event_id, Refusal::Conflict(text)));
    if flags.outlier && !event.outlier {
        let is_rejected = event.verdict == Verdict::Rejected;
        let is_rejection_changed = is_rejected != flags.rejected;
        let outlier = Existing::Outlier { number, body, is_rejection_changed };
        return Ok(if flags.purged { Existing::Purged } else { outlier });
    }
    if event.outlier && !flags.outlier && is_replaced {
        return refused(
            "the event is in the graph of the room; `RemoveEvents` makes it an outlier",
        );
    }
    let is_other_verdict = verdict != event.verdict;
    if is_other_verdict && !is_replaced && !event.outlier {
        return refused("the event is stored with another verdict; the first one stays");
    }
    let verdict = (is_other_verdict && is_replaced).then_some(event.verdict);
    let has_given = || edit.given_state(edit.room_num(), number).map(|it| it.is_some());
    let takes_state = !flags.outlier
        && !event.outlier
        && (node.state_after.is_none() || (verdict.is_some() && has_given()?));
    let replacement = Replacement { body, verdict };
    Ok(Existing::Held(HeldEvent { number, replacement, takes_state }))
}

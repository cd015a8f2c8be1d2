//! What a redaction or power levels stop to cause: when their verdict changes, when the state before
//! them is not known any more, and when they are removed.

use super::redaction;
use crate::{
    pdu::Event,
    store::{Arrival, DeriveAgain, Edit, EventNum, Judged as _, Judgement, StoreError, View},
};

/// Takes a redaction off the list, as one that has no effect.
pub(super) fn withdraw(
    edit: &mut Edit<'_>,
    event: EventNum,
    read: &Event,
) -> Result<(), StoreError> {
    let Some(target_id) = redaction::take_off_list(edit, event, read)? else { return Ok(()) };
    match edit.event_num(edit.room_num(), &target_id)? {
        Some(target) => redaction::mark(edit, target, &target_id),
        None => Ok(()),
    }
}

/// Judges an event again as a redaction after the state before it is not known any more; if it is
/// power levels, takes it off the list.
pub(super) fn unsettled(
    edit: &mut Edit<'_>,
    event: EventNum,
    read: &Event,
) -> Result<(), StoreError> {
    let Some(pdu) = read.pdu() else { return Ok(()) };
    redaction::judge(edit, event, pdu)?;
    leave_power(edit, event)
}

/// Takes power levels off the list, and notes that the redactions that arrived after them are to be
/// judged again. Does nothing for an event that is not on the list.
pub(super) fn leave_power(edit: &mut Edit<'_>, event: EventNum) -> Result<(), StoreError> {
    let arrival = edit.node(event)?.arrival;
    if edit.power(edit.room_num(), arrival, event)?.is_none() {
        return Ok(());
    }
    edit.remove_power(arrival, event);
    let judge_after = Some(Arrival { arrival, event });
    edit.note_derive_again(event, DeriveAgain { judge_after, ..DeriveAgain::default() })
}

/// Makes the redactions of an event that is being removed wait for its return.
pub(super) fn forget_target(edit: &mut Edit<'_>, target_id: &str) -> Result<(), StoreError> {
    for judged in [Judgement::Waiting, Judgement::Heeded, Judgement::Unheeded] {
        for redaction in edit.redactions_of(edit.room_num(), target_id, judged, usize::MAX)? {
            edit.remove_redaction(target_id, redaction, judged);
            edit.put_redaction(target_id, redaction, Judgement::Unseen);
        }
    }
    Ok(())
}

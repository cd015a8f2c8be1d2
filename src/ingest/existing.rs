//! Step 4: what a room holds under the id of a new event, and whether that is the same event.

use super::{NewEvent, Refusal, Verdict, check::Checked, refusal::NotTaken};
use crate::{
    pdu::{Event, Pdu},
    store::{Edit, EventNode, EventNum, StoreError, View},
};

/// What a room holds under the id of a new event.
pub(super) enum Existing {
    /// The room does not hold the event.
    None,
    /// The same event. The new one changes nothing.
    Same(EventNum),
    /// The same event, in the graph. The state after it is not known, so it may be given now.
    StateUnknown(EventNum),
    /// The same event, as an outlier. It is to be placed in the graph now.
    Outlier(EventNum),
    /// The same event, as an outlier that a purge has left. It must not be placed again.
    Purged,
}

/// Looks up what a room holds under the id of a new event. Refuses the event if that is another
/// one, or the same with another verdict.
pub(super) fn existing(
    edit: &Edit<'_>,
    event: &NewEvent<'_>,
    checked: &Checked,
) -> Result<Existing, NotTaken> {
    let event_id = checked.event.event_id().as_str();
    let Some(number) = edit.event_num(edit.room_num(), event_id)? else {
        return Ok(Existing::None);
    };
    if !is_same(edit, number, checked)? {
        let text = "other bytes are stored under this id; the first ones stay";
        return Err(NotTaken::refused(event_id, Refusal::Conflict(text)));
    }
    let EventNode { flags, state_after, .. } = edit.node(number)?;
    if event.outlier {
        return Ok(Existing::Same(number));
    }
    if flags.outlier {
        return Ok(if flags.purged { Existing::Purged } else { Existing::Outlier(number) });
    }
    if Verdict::of_flags(flags.rejected, flags.soft_failed) != event.verdict {
        let text = "the event is stored with another verdict; the first one stays";
        return Err(NotTaken::refused(event_id, Refusal::Conflict(text)));
    }
    Ok(if state_after.is_none() { Existing::StateUnknown(number) } else { Existing::Same(number) })
}

fn is_same(edit: &Edit<'_>, number: EventNum, checked: &Checked) -> Result<bool, StoreError> {
    let stored = edit.body(edit.room_num(), number)?;
    Ok(stored.pdu == checked.bytes || is_other_form(&stored.pdu, checked))
}

/// Whether stored bytes are another form of an event: other white space, or its redacted form.
fn is_other_form(stored: &[u8], checked: &Checked) -> bool {
    match &checked.event {
        Event::Readable(pdu) => {
            let stored = Pdu::parse(stored, checked.version).map(|it| it.canonical_json());
            // Of an event whose redaction was purged, only the redacted form is stored.
            let redacted = || pdu.redacted().map(|it| it.canonical_json());
            stored == Ok(pdu.canonical_json()) || stored == redacted()
        }
        // The room format has no line breaks inside an event. In JSON, they may only stand between
        // tokens.
        Event::Unreadable(_) => {
            let is_break = |byte: u8| matches!(byte, b'\n' | b'\r');
            let in_a_line = |byte: &u8| if is_break(*byte) { b' ' } else { *byte };
            stored.iter().map(in_a_line).eq(checked.bytes.iter().map(in_a_line))
        }
    }
}

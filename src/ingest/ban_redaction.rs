//! Bans that redact what the banned user has sent to a room (MSC4293). The use case behind
//! `SetBanRedaction`, and the search for events whose content is to be removed because of it.
//!
//! A ban changes no record of an event: whether it redacts an event is decided whenever that is asked.
//! So it takes effect at once, for the events that are held and for those that are appended later,
//! and removing it reverses it. No state changes either: all that a state is made of survives
//! redaction.

use std::ops::Range;

use super::stored::{parse_stored, version_of};
use crate::{
    pdu::{Event, Pdu},
    store::{
        BanRedaction, BanSearch, BannedUser, Decision, Edit, EventNum, SentEvent, Store, StoreError,
    },
};

/// Events that are looked at in one turn of a search.
const EVENTS_PER_TURN: u32 = 256;

/// Records a ban that redacts, or removes that record. It is on disk and in effect when this returns.
/// The room need not be held.
///
/// # Errors
/// When the change cannot be written; whether it takes effect is then unknown.
pub fn set_ban_redaction(
    store: &Store,
    user: &BannedUser,
    ban: Option<&BanRedaction>,
) -> Result<(), StoreError> {
    store.set_ban_redaction(user, ban)
}

/// Whether a ban redacts an event, as a valid redaction of it does.
#[must_use]
pub fn is_redacted_by_ban(store: &Store, arrival: i64, pdu: &Pdu) -> bool {
    let room_id = pdu.room_id().as_str();
    if !store.has_ban_redactions(room_id) {
        return false;
    }
    let ban = store.ban_redaction(room_id, pdu.sender().as_str());
    ban.is_some_and(|it| it.redacts(sent(arrival, pdu)))
}

fn sent(arrival: i64, pdu: &Pdu) -> SentEvent<'_> {
    SentEvent { event_id: pdu.event_id().as_str(), event_type: pdu.event_type(), arrival }
}

/// Notes that the content of a newly stored event is to be removed, if a ban redacts the event.
pub(super) fn place(edit: &mut Edit<'_>, event: EventNum, read: &Event) -> Result<(), StoreError> {
    if !edit.has_ban_redactions() {
        return Ok(());
    }
    let Some(pdu) = read.pdu() else { return Ok(()) };
    let arrival = edit.node(event)?.arrival;
    let ban = edit.ban_redaction(pdu.sender().as_str());
    if ban.is_some_and(|it| it.redacts(sent(arrival, pdu))) {
        edit.note_content_due(event)?;
    }
    Ok(())
}

/// Searches for held events that a ban redacts, and notes that their content is to be removed: some
/// events of one room in one decision. Returns whether any search has more to do. Nothing is flushed.
///
/// # Errors
/// When the store fails.
pub(super) fn search(store: &Store) -> Result<bool, StoreError> {
    let Some((user, search)) = store.next_ban_search()? else { return Ok(false) };
    let next = match store.ban_redaction(&user.room_id, &user.user_id) {
        Some(ban) => turn(store, &user, &ban, search)?,
        None => None,
    };
    store.put_ban_search(&user, next)?;
    Ok(true)
}

/// Looks at the next events of the room. Returns how far the search is then; `None` if it has ended.
/// Events that are stored meanwhile are noted when they are stored.
fn turn(
    store: &Store,
    user: &BannedUser,
    ban: &BanRedaction,
    search: Option<BanSearch>,
) -> Result<Option<BanSearch>, StoreError> {
    let searched = store.decide(&user.room_id, None, |edit| {
        let room_mark = store.room_mark(edit.room_num());
        let next = match search {
            // It is another room if it was deleted and made again since, or copied from another store.
            Some(search) if search.room_mark == room_mark => search.next.0,
            Some(_) | None => 0,
        };
        let last = edit.room.next_event.0;
        let end = last.min(next.saturating_add(EVENTS_PER_TURN));
        let is_changed = note_all(edit, next..end, user, ban)?;
        let left = (end < last).then_some(BanSearch { room_mark, next: EventNum(end) });
        // In a shared store, another process may be about to append an event of this user that it has
        // not judged by this ban. The commit makes it decide again.
        let is_last = left.is_none() && store.is_shared();
        Ok::<_, StoreError>(if is_changed || is_last {
            Decision::Commit(left)
        } else {
            Decision::Discard(left)
        })
    })?;
    Ok(searched.flatten())
}

/// Notes the events of a range that a ban redacts. Returns whether there are any.
fn note_all(
    edit: &mut Edit<'_>,
    events: Range<u32>,
    user: &BannedUser,
    ban: &BanRedaction,
) -> Result<bool, StoreError> {
    let version = version_of(edit)?;
    let mut is_changed = false;
    for event in events.map(EventNum) {
        let Some(node) = edit.find_node(event)? else { continue };
        let pdu = match parse_stored(edit, event, version) {
            Ok(Some(pdu)) => pdu,
            // A damaged body is reported when the store is verified.
            Err(failure) if !failure.is_of_record() => return Err(failure),
            Ok(None) | Err(_) => continue,
        };
        if *pdu.sender().as_str() == *user.user_id && ban.redacts(sent(node.arrival, &pdu)) {
            edit.note_content_due(event)?;
            is_changed = true;
        }
    }
    Ok(is_changed)
}

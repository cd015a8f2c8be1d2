//! Removes the content of redacted events from the disk, some time after the redaction took effect.
//!
//! The work is done in turns of bounded size, beside all other work. Each decision is one atomic
//! batch: the body of an event is replaced by its redacted form, exactly as it is served, and the note
//! that asked for it is removed. So a turn that is interrupted is partly done, and the next one
//! continues.
//!
//! The time counts from the moment when this service saw first that the event is redacted, by the
//! clock of the machine. If that moment lies in the future, the clock was set back since, and the time
//! counts from now: content stays at most as long as configured after the clock is right again. A
//! clock that is set forward makes content disappear earlier; no server gets it anyway.

use std::time::Duration;

use super::{
    ban_redaction, is_redacted_by_ban,
    remains::strip,
    stored::{parse_stored, version_of},
};
use crate::{
    context::Context,
    store::{
        ContentDue, Decision, Edit, EventNum, HeldLease, Leased, RedactedContent, RedactedSearch,
        RoomNum, Store, StoreError,
    },
};

/// The most notes that are read in one turn.
const NOTES_PER_TURN: usize = 256;
/// The most events whose content is removed in one decision.
const EVENTS_PER_DECISION: usize = 32;
/// The most events that are looked at in one turn of the search for redacted events.
const SEARCHED_PER_TURN: u32 = 2_048;
/// Greater than the number of every event: all events of a room were looked at.
const LAST_EVENT: EventNum = EventNum(u32::MAX);

/// Whether a pass over all notes has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// There is more to do now.
    Continues,
    /// All notes were looked at.
    Ended,
}

/// Removes content, in passes over all events whose content is to be removed.
#[derive(Debug, Default)]
pub struct ContentRemoval {
    /// The last event that the running pass looked at; `None` at the start of a pass.
    after: Option<ContentDue>,
    /// Held during a pass in a store that several processes share: one of them removes content.
    lease: Option<HeldLease>,
}

/// What one decision did with the events that it looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Looked {
    is_changed: bool,
    removed: u64,
}

impl ContentRemoval {
    /// Takes one turn. `now_ms` is the wall clock, in milliseconds since 1970. What the turn did is on
    /// disk when this returns.
    ///
    /// # Errors
    /// When the store fails. The next turn tries again.
    pub fn turn(&mut self, cx: &Context, now_ms: u64) -> Result<Pass, StoreError> {
        if cx.store.is_shared() && !self.is_alone(&cx.store)? {
            self.after = None;
            return Ok(Pass::Ended);
        }
        let pass = self.turn_alone(cx, now_ms)?;
        if let Some(lease) = self.lease.take_if(|_| pass == Pass::Ended) {
            cx.store.release(&lease);
        }
        Ok(pass)
    }

    /// Whether no other process removes content.
    fn is_alone(&mut self, store: &Store) -> Result<bool, StoreError> {
        let is_held = match &mut self.lease {
            Some(lease) => store.prolong(lease)?,
            None => {
                self.lease = store.try_lease(Leased::ContentRemoval)?;
                self.lease.is_some()
            }
        };
        if !is_held {
            self.lease = None;
        }
        Ok(is_held)
    }

    fn turn_alone(&mut self, cx: &Context, now_ms: u64) -> Result<Pass, StoreError> {
        let store = &cx.store;
        if store.check_space().is_err() {
            return Ok(Pass::Ended);
        }
        if search_redacted(store)? || ban_redaction::search(store)? {
            store.flush()?;
            return Ok(Pass::Continues);
        }
        let notes = store.content_due(self.after, NOTES_PER_TURN)?;
        let mut looked = Looked::default();
        for of_one_room in notes.chunk_by(|one, next| one.room == next.room) {
            for some in of_one_room.chunks(EVENTS_PER_DECISION) {
                let one = match look_at(store, some, now_ms) {
                    Err(failure) if failure.is_of_record() => {
                        // The store has to be repaired; the notes stay until then.
                        tracing::warn!(%failure, "content of redacted events could not be removed");
                        continue;
                    }
                    one => one?,
                };
                looked.is_changed |= one.is_changed;
                looked.removed += one.removed;
            }
        }
        if looked.is_changed {
            store.flush()?;
        }
        cx.metrics.content_removed(looked.removed);
        self.after = notes.last().copied().filter(|_| notes.len() == NOTES_PER_TURN);
        Ok(if self.after.is_some() { Pass::Continues } else { Pass::Ended })
    }
}

/// Removes the content of all redacted events of the store that is due at `now_ms`, in milliseconds
/// since 1970.
///
/// # Errors
/// When the store fails.
pub fn remove_content(cx: &Context, now_ms: u64) -> Result<(), StoreError> {
    let mut removal = ContentRemoval::default();
    while removal.turn(cx, now_ms)? == Pass::Continues {}
    Ok(())
}

/// Looks at notes of one room, in one decision.
fn look_at(store: &Store, notes: &[ContentDue], now_ms: u64) -> Result<Looked, StoreError> {
    let Some(first) = notes.first() else { return Ok(Looked::default()) };
    // The room may have been deleted since; its notes are removed with it.
    let room = match store.find_room(first.room) {
        // Another process has changed it. The next pass finds the notes again.
        Err(StoreError::Missing { .. }) | Ok(None) => return Ok(Looked::default()),
        room => room?.map(|it| it.room_id).unwrap_or_default(),
    };
    let mark = store.room_mark(first.room);
    let looked = store.decide(&room, None, |edit| {
        let mut looked = Looked::default();
        if store.room_mark(edit.room_num()) == mark {
            for note in notes {
                let one = look_at_one(edit, *note, now_ms)?;
                looked.is_changed |= one.is_changed;
                looked.removed += one.removed;
            }
        }
        Ok::<_, StoreError>(if looked.is_changed {
            Decision::Commit(looked)
        } else {
            Decision::Discard(looked)
        })
    })?;
    Ok(looked.unwrap_or_default())
}

fn look_at_one(edit: &mut Edit<'_>, note: ContentDue, now_ms: u64) -> Result<Looked, StoreError> {
    let ContentDue { event, since_ms, .. } = note;
    // Another writer may have removed the note, or the event with it.
    if !edit.is_content_due(event)? {
        return Ok(Looked::default());
    }
    let kept_for = match edit.store().redacted_content() {
        RedactedContent::KeptForEver => None,
        RedactedContent::RemovedAfter(time) => Some(time),
    };
    let is_due = match since_ms {
        _ if kept_for == Some(Duration::ZERO) => true,
        Some(since) if since <= now_ms => {
            kept_for.is_some_and(|it| u128::from(now_ms - since) >= it.as_millis())
        }
        // Not seen before, or the clock was set back since.
        Some(_) | None => {
            edit.put_content_since(event, now_ms);
            return Ok(Looked { is_changed: true, removed: 0 });
        }
    };
    if !is_due {
        return Ok(Looked::default());
    }
    Ok(Looked { is_changed: true, removed: remove_content_of(edit, event)?.into() })
}

/// Removes the content of an event if it is redacted, and the note about it. Returns whether there was
/// any content.
///
/// # Errors
/// When the store fails.
pub fn remove_content_of(edit: &mut Edit<'_>, event: EventNum) -> Result<bool, StoreError> {
    edit.remove_content_due(event);
    let Some(node) = edit.find_node(event)? else { return Ok(false) };
    let Some(pdu) = parse_stored(edit, event, version_of(edit)?)? else { return Ok(false) };
    let is_redacted = node.flags.redacted || is_redacted_by_ban(edit.store(), node.arrival, &pdu);
    Ok(is_redacted && strip(edit, event, &pdu))
}

/// Searches for events that were redacted before the store had format 5, and notes that their content
/// is to be removed: some events in one turn. Returns whether there may be more. Nothing is flushed.
fn search_redacted(store: &Store) -> Result<bool, StoreError> {
    let room_after = |room| Ok::<_, StoreError>(store.room_nums(room, 1)?.first().copied());
    let (room, next) = match store.redacted_search()? {
        RedactedSearch::Done => return Ok(false),
        RedactedSearch::Begin => (room_after(None)?, EventNum(0)),
        RedactedSearch::At { room, next: LAST_EVENT } => (room_after(Some(room))?, EventNum(0)),
        RedactedSearch::At { room, next } => (Some(room), next),
    };
    let search = match room {
        None => RedactedSearch::Done,
        Some(room) => match note_redacted(store, room, next.0) {
            // The number of the room has changed: see `RoomIdentity`.
            Err(StoreError::Missing { .. }) if store.is_shared() => RedactedSearch::Begin,
            next => RedactedSearch::At { room, next: next?.unwrap_or(LAST_EVENT) },
        },
    };
    store.put_redacted_search(search)?;
    Ok(true)
}

/// Notes the redacted events of a room, from an event on. Returns the next event to look at; `None`
/// at the end of the room.
fn note_redacted(store: &Store, room: RoomNum, next: u32) -> Result<Option<EventNum>, StoreError> {
    let record = match store.find_room(room) {
        Ok(Some(record)) => record,
        Err(failure @ StoreError::Missing { .. }) => return Err(failure),
        // A damaged room is reported when the store is verified.
        Err(failure) if !failure.is_of_record() => return Err(failure),
        Ok(None) | Err(_) => return Ok(None),
    };
    let mark = store.room_mark(room);
    let noted = store.decide(&record.room_id, None, |edit| {
        if store.room_mark(edit.room_num()) != mark {
            return Ok(Decision::Discard(None));
        }
        let last = edit.room.next_event.0;
        let end = last.min(next.saturating_add(SEARCHED_PER_TURN));
        let mut is_changed = false;
        for event in (next..end).map(EventNum) {
            if edit.find_node(event)?.is_some_and(|it| it.flags.redacted) {
                edit.note_content_due(event)?;
                is_changed = true;
            }
        }
        let left = (end < last).then_some(EventNum(end));
        Ok::<_, StoreError>(if is_changed {
            Decision::Commit(left)
        } else {
            Decision::Discard(left)
        })
    })?;
    Ok(noted.flatten())
}

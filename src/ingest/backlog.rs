//! Settling the events that waited for another event, in turns: each turn is one decision of
//! bounded work, and other writers of the room go between two turns. A note on disk stays until its
//! work is done, so a crash between two turns loses no work.

use super::{derive_again, settle};
use crate::{
    context::Context,
    store::{Decision, Deriving as _, Edit, Store, StoreError, View},
};

/// The most notes that are worked off in one turn.
const NOTES_PER_TURN: usize = 64;
/// Turns that [`recover`] takes before it leaves the rest to the backlog.
const TURNS_OF_RECOVERY: usize = 64;

/// Whether a room may have more notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotesLeft {
    /// The room has no more notes.
    None,
    /// The room may have more notes.
    Some,
}

/// Takes up to `limit` turns in a room. A room that is to be derived again gets none: that may take
/// long, and more events may be replaced first.
pub(super) fn turns(store: &Store, room_id: &str, limit: usize) -> Result<NotesLeft, StoreError> {
    if is_deriving(store, room_id)? {
        return Ok(NotesLeft::Some);
    }
    for _ in 0..limit {
        if turn(store, room_id)? == NotesLeft::None {
            return Ok(NotesLeft::None);
        }
    }
    Ok(NotesLeft::Some)
}

fn turn(store: &Store, room_id: &str) -> Result<NotesLeft, StoreError> {
    if derive_again::turn(store, room_id)? == NotesLeft::Some {
        return Ok(NotesLeft::Some);
    }
    // A room that has been deleted since has no notes.
    Ok(store.decide(room_id, None, work_off_notes)?.unwrap_or(NotesLeft::None))
}

fn work_off_notes(edit: &mut Edit<'_>) -> Result<Decision<NotesLeft>, StoreError> {
    if derive_again::is_frozen(edit)? {
        // An event was replaced since the others were derived again.
        return Ok(Decision::Discard(NotesLeft::Some));
    }
    let mut worked_off = 0;
    while worked_off < NOTES_PER_TURN {
        let notes = edit.unsettled(edit.room_num(), NOTES_PER_TURN - worked_off)?;
        if notes.is_empty() {
            break;
        }
        for note in notes {
            if worked_off >= NOTES_PER_TURN {
                break;
            }
            // An unfinished event notifies many others: that is the work of a whole turn.
            worked_off += if note.is_unfinished { NOTES_PER_TURN } else { 1 };
            edit.remove_unsettled(note.event);
            settle::work_off(edit, note)?;
        }
    }
    let is_done = worked_off < NOTES_PER_TURN;
    let is_deriving = edit.is_deriving(edit.room_num())?;
    if worked_off == 0 && !is_deriving {
        return Ok(Decision::Discard(NotesLeft::None));
    }
    if is_done && is_deriving && !derive_again::is_frozen(edit)? {
        derive_again::end(edit)?;
    }
    settle::refresh_current_state(edit)?;
    Ok(Decision::Commit(if is_done { NotesLeft::None } else { NotesLeft::Some }))
}

/// Works off all notes of a room.
pub fn settle_waiting(store: &Store, room_id: &str) -> Result<(), StoreError> {
    while turn(store, room_id)? == NotesLeft::Some {}
    Ok(())
}

/// Takes one turn in the room that has waited longest. Returns whether any room may have more
/// notes.
pub fn work_off(cx: &Context) -> Result<NotesLeft, StoreError> {
    let Some(room_id) = cx.backlog.take() else { return Ok(NotesLeft::None) };
    if turn(&cx.store, &room_id)? == NotesLeft::Some {
        cx.backlog.add(&room_id);
    }
    Ok(if cx.backlog.is_empty() { NotesLeft::None } else { NotesLeft::Some })
}

fn is_deriving(store: &Store, room_id: &str) -> Result<bool, StoreError> {
    store.room_num(room_id)?.map_or(Ok(false), |it| store.is_deriving(it))
}

/// Completes what a crash has interrupted, in all rooms: deletions, and turns up to a limit. To be
/// called once, after the store is opened. Returns the ids of the rooms that may have more notes;
/// the caller adds them to the backlog.
pub fn recover(store: &Store) -> Result<Vec<String>, StoreError> {
    for room in store.deleted_rooms()? {
        while store.remove_deleted(room)? > 0 {}
    }
    let mut left = Vec::new();
    let mut turns_left = TURNS_OF_RECOVERY;
    for room in store.unsettled_rooms()? {
        loop {
            if turns_left == 0 || is_deriving(store, &room.room_id)? {
                left.push(room.room_id);
                break;
            }
            turns_left -= 1;
            if turn(store, &room.room_id)? == NotesLeft::None {
                break;
            }
        }
    }
    Ok(left)
}

//! What an event lets become known of others, worked out bit by bit: each turn is one atomic batch
//! of bounded work, after which the room is free for other writers. A note on disk stays until its
//! work is done, so a crash between two turns loses nothing.

use super::settle;
use crate::{
    context::Context,
    store::{Store, StoreError, View},
};

/// Notes that are worked off in one turn at most.
const NOTES_A_TURN: usize = 64;
/// Turns that [`recover`] takes before it leaves the rest to the backlog.
const TURNS_TO_RECOVER: usize = 64;

/// Whether notes are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The room has none.
    None,
    /// The room may have some.
    Some,
}

/// Works off notes of a room in so many turns at most.
pub(super) fn turns(store: &Store, room_id: &str, at_most: usize) -> Result<Left, StoreError> {
    for _ in 0..at_most {
        if turn(store, room_id)? == Left::None {
            return Ok(Left::None);
        }
    }
    Ok(Left::Some)
}

fn turn(store: &Store, room_id: &str) -> Result<Left, StoreError> {
    let Some(mut edit) = store.edit(room_id, None)? else { return Ok(Left::None) };
    let mut worked_off = 0;
    let left = loop {
        let notes = edit.unsettled(edit.room_num(), NOTES_A_TURN.saturating_sub(worked_off))?;
        if notes.is_empty() {
            let is_done = worked_off < NOTES_A_TURN;
            break if is_done { Left::None } else { Left::Some };
        }
        for note in notes {
            if worked_off >= NOTES_A_TURN {
                break;
            }
            // Those tell many others each.
            worked_off += if note.is_unfinished { NOTES_A_TURN } else { 1 };
            edit.remove_unsettled(note.event);
            settle::work_off(&mut edit, note)?;
        }
    };
    if worked_off > 0 {
        settle::refresh_current_state(&mut edit)?;
        edit.commit()?;
    }
    Ok(left)
}

/// Works out all that can be known in a room.
///
/// # Errors
/// When the store fails.
pub fn settle_waiting(store: &Store, room_id: &str) -> Result<(), StoreError> {
    while turn(store, room_id)? == Left::Some {}
    Ok(())
}

/// Works off notes of the room that has waited longest: one turn. Whether there is more to do.
///
/// # Errors
/// When the store fails.
pub fn work_off(cx: &Context) -> Result<Left, StoreError> {
    let Some(room_id) = cx.backlog.take() else { return Ok(Left::None) };
    if turn(&cx.store, &room_id)? == Left::Some {
        cx.backlog.add(&room_id);
    }
    Ok(if cx.backlog.is_empty() { Left::None } else { Left::Some })
}

/// Finishes, in all rooms, what a crash cut off. To be called once, after opening. The ids of rooms
/// in which more is left than should be waited for: they belong into the backlog.
///
/// # Errors
/// When the store fails.
pub fn recover(store: &Store) -> Result<Vec<String>, StoreError> {
    for room in store.deleted_rooms()? {
        while store.remove_deleted(room)? > 0 {}
    }
    let mut left = Vec::new();
    let mut turns_left = TURNS_TO_RECOVER;
    for room in store.unsettled_rooms()? {
        loop {
            if turns_left == 0 {
                left.push(room.room_id);
                break;
            }
            turns_left -= 1;
            if turn(store, &room.room_id)? == Left::None {
                break;
            }
        }
    }
    Ok(left)
}

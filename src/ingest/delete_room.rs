//! The use case behind `DeleteRoom`.

use std::ops::ControlFlow;

use crate::{
    num,
    store::{Store, StoreError},
};

/// Why a room was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The store does not hold the room.
    #[error("room {0} is not held")]
    RoomUnknown(String),
    /// The store failed during the deletion.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The progress of a deletion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteProgress {
    /// Records removed so far.
    pub removed: u64,
    /// Whether the deletion is complete.
    pub done: bool,
}

/// Deletes a room. The room is gone, on disk, before the first record is removed; the records are
/// then removed in small batches. With `may_return`, the room may be created again afterwards;
/// without, every later event of it is ignored.
///
/// `watch` is called after each batch and may stop the removal: the result then has `done: false`,
/// and the next start of the service completes it ([`recover`](super::recover)).
///
/// # Errors
/// [`DeleteError::RoomUnknown`] if there is no such room. A room that was deleted before is known
/// if `may_return` is set: it may then be created again.
pub fn delete_room(
    store: &Store,
    room_id: &str,
    may_return: bool,
    watch: &mut dyn FnMut(DeleteProgress) -> ControlFlow<()>,
) -> Result<DeleteProgress, DeleteError> {
    let deleted = store.delete_room(room_id)?;
    let was_forgotten = may_return && store.forget_deleted_room(room_id)?;
    let mut progress = DeleteProgress::default();
    let Some(room) = deleted else {
        if was_forgotten {
            return Ok(DeleteProgress { done: true, ..progress });
        }
        return Err(DeleteError::RoomUnknown(room_id.to_owned()));
    };
    loop {
        let removed = store.remove_deleted(room)?;
        if removed == 0 {
            return Ok(DeleteProgress { done: true, ..progress });
        }
        progress.removed += num::u64(removed);
        if watch(progress).is_break() {
            return Ok(progress);
        }
    }
}

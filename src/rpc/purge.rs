//! Purging history and deleting rooms: long jobs that send their progress.

use std::ops::ControlFlow;

use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{progress::Progress, status, wire};
use crate::{
    context::Context,
    ingest::{self, PurgeError},
    proto::v1 as pb,
    store::StoreError,
};

/// Purges the history of a room before an event. Ends early if the caller leaves: a purge that was
/// cut off can be asked for again.
pub(super) fn purge_history(
    cx: &Context,
    request: pb::PurgeHistoryRequest,
    progress: &Progress<pb::PurgeHistoryResponse>,
    stopping: &CancellationToken,
) -> Result<Option<pb::PurgeHistoryResponse>, Status> {
    let pb::PurgeHistoryRequest { room_id, event_id } = request;
    let mut watch = |purged| {
        let sent = progress.send(wire::purge_history_response(purged));
        if stopping.is_cancelled() { ControlFlow::Break(()) } else { sent }
    };
    match ingest::purge_history(&cx.store, (&room_id, &event_id), &mut watch) {
        Ok(done) if done.done => Ok(Some(wire::purge_history_response(done))),
        Ok(_) if stopping.is_cancelled() => Err(status::stopping()),
        Ok(_) => Ok(None),
        Err(failure) => Err(of_purge(failure)),
    }
}

/// Deletes a room. Goes on if the caller leaves: the room is gone for it already.
pub(super) fn delete_room(
    cx: &Context,
    request: pb::DeleteRoomRequest,
    progress: &Progress<pb::DeleteRoomResponse>,
    stopping: &CancellationToken,
) -> Result<Option<pb::DeleteRoomResponse>, Status> {
    let pb::DeleteRoomRequest { room_id, may_return } = request;
    let failed = |failure: StoreError| status::of_store(&failure);
    let deleted = cx.store.delete_room(&room_id).map_err(failed)?;
    let forgotten = may_return && cx.store.forget_deleted_room(&room_id).map_err(failed)?;
    let Some(room) = deleted else {
        if forgotten {
            return Ok(Some(pb::DeleteRoomResponse { removed_count: 0, done: true }));
        }
        return Err(status::of_query(crate::query::QueryError::RoomUnknown(room_id)));
    };
    let mut removed_count = 0;
    loop {
        let removed = cx.store.remove_deleted(room).map_err(failed)?;
        if removed == 0 {
            return Ok(Some(pb::DeleteRoomResponse { removed_count, done: true }));
        }
        if stopping.is_cancelled() {
            // The next start goes on with it.
            return Err(status::stopping());
        }
        removed_count += u64::try_from(removed).unwrap_or(u64::MAX);
        // The deletion does not depend on its caller.
        let _sent = progress.send(pb::DeleteRoomResponse { removed_count, done: false });
    }
}

fn of_purge(failure: PurgeError) -> Status {
    let text = failure.to_string();
    match failure {
        PurgeError::RoomUnknown(_) => status::not_found("ROOM_UNKNOWN", &text),
        PurgeError::EventUnknown(_) => status::not_found("EVENT_UNKNOWN", &text),
        PurgeError::Store(failure) => status::of_store(&failure),
    }
}

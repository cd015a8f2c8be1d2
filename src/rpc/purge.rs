//! Purging history and deleting rooms: long jobs that send their progress.

use std::ops::ControlFlow;

use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    lease::{CallLease, WriteSteps},
    progress::Progress,
    status, wire,
};
use crate::{
    context::Context,
    ingest::{self, DeleteError, PurgeError, PurgedHistory, RemoveError, RemovedEvents},
    proto::v1::{self as pb, ErrorReason},
};

/// Purges the history of a room before an event. Ends early if the caller leaves: a purge that was
/// cut off can be asked for again.
pub(super) fn purge_history(
    cx: &Context,
    lease: &CallLease,
    request: pb::PurgeHistoryRequest,
    progress: &Progress<pb::PurgeHistoryResponse>,
    stopping: &CancellationToken,
) -> Result<Option<pb::PurgeHistoryResponse>, Status> {
    let pb::PurgeHistoryRequest { room_id, event_id, may_return } = request;
    let purged = PurgedHistory { room_id: &room_id, event_id: &event_id, may_return };
    let mut steps = WriteSteps::begin(lease, &cx.feeder)?;
    let mut watch = |purged| {
        steps.pause();
        let sent = progress.send(wire::purge_history_response(purged));
        if stopping.is_cancelled() {
            ControlFlow::Break(())
        } else {
            sent?;
            steps.next()
        }
    };
    let ended = ingest::purge_history(&cx.store, purged, &mut watch);
    steps.end()?;
    match ended {
        Ok(done) if done.done => Ok(Some(wire::purge_history_response(done))),
        Ok(_) if stopping.is_cancelled() => Err(status::stopping()),
        Ok(_) => Ok(None),
        Err(failure) => Err(of_purge(failure)),
    }
}

/// Takes events out of the graph of a room. Ends early if the caller leaves: a removal that was cut off
/// can be asked for again.
pub(super) fn remove_events(
    cx: &Context,
    lease: &CallLease,
    request: pb::RemoveEventsRequest,
    progress: &Progress<pb::RemoveEventsResponse>,
    stopping: &CancellationToken,
) -> Result<Option<pb::RemoveEventsResponse>, Status> {
    let pb::RemoveEventsRequest { room_id, event_ids, keep_as_outliers } = request;
    let events = RemovedEvents { room_id: &room_id, event_ids: &event_ids, keep_as_outliers };
    let mut steps = WriteSteps::begin(lease, &cx.feeder)?;
    let mut watch = |removed| {
        steps.pause();
        let sent = progress.send(wire::remove_events_response(removed));
        if stopping.is_cancelled() {
            ControlFlow::Break(())
        } else {
            sent?;
            steps.next()
        }
    };
    let ended = ingest::remove_events(&cx.store, events, &mut watch);
    steps.end()?;
    match ended {
        Ok(done) if done.done => Ok(Some(wire::remove_events_response(done))),
        Ok(_) if stopping.is_cancelled() => Err(status::stopping()),
        Ok(_) => Ok(None),
        Err(failure) => Err(of_remove(failure)),
    }
}

/// Deletes a room. Goes on if the caller leaves: it has asked for the deletion all the same.
pub(super) fn delete_room(
    cx: &Context,
    lease: &CallLease,
    request: pb::DeleteRoomRequest,
    progress: &Progress<pb::DeleteRoomResponse>,
    stopping: &CancellationToken,
) -> Result<Option<pb::DeleteRoomResponse>, Status> {
    let pb::DeleteRoomRequest { room_id, may_return } = request;
    // The room is gone before the first record is removed; that changes nothing more.
    let mut writing = lease.begin_write(&cx.feeder)?;
    let mut watch = |deleted| {
        writing = None;
        let _sent = progress.send(wire::delete_room_response(deleted));
        if stopping.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let ended = ingest::delete_room(&cx.store, &room_id, may_return, &mut watch);
    match ended.map_err(of_delete)? {
        done if done.done => Ok(Some(wire::delete_room_response(done))),
        _ => Err(status::stopping()),
    }
}

fn of_delete(failure: DeleteError) -> Status {
    let text = failure.to_string();
    match failure {
        DeleteError::RoomUnknown(_) => status::refuse(ErrorReason::RoomUnknown, &text),
        DeleteError::Store(failure) => status::of_store(&failure),
    }
}

fn of_remove(failure: RemoveError) -> Status {
    let text = failure.to_string();
    match failure {
        RemoveError::RoomUnknown(_) => status::refuse(ErrorReason::RoomUnknown, &text),
        RemoveError::TooMany(_) => status::refuse(ErrorReason::TooManyIds, &text),
        RemoveError::Store(failure) => status::of_store(&failure),
    }
}

fn of_purge(failure: PurgeError) -> Status {
    let text = failure.to_string();
    match failure {
        PurgeError::RoomUnknown(_) => status::refuse(ErrorReason::RoomUnknown, &text),
        PurgeError::EventUnknown(_) => status::refuse(ErrorReason::EventUnknown, &text),
        PurgeError::Store(failure) => status::of_store(&failure),
    }
}

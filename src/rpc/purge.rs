//! Purging and deleting: work that takes its time, and tells how far it has come.

use std::{ops::ControlFlow, sync::Arc};

use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    news::{News, run},
    status, wire,
};
use crate::{
    context::Context,
    ingest::{self, DeleteError, PurgeError},
    proto::v1 as pb,
};

pub(super) fn purge_history(
    cx: Arc<Context>,
    request: pb::PurgeHistoryRequest,
    stopping: CancellationToken,
) -> News<pb::PurgeHistoryResponse> {
    let pb::PurgeHistoryRequest { room_id, event_id } = request;
    let metrics = cx.metrics.clone();
    run(&metrics, move |news| {
        let mut watch = |progress| {
            let told = news.blocking_send(Ok(wire::purge_history_response(progress)));
            if told.is_err() || stopping.is_cancelled() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        };
        let ended = ingest::purge_history(&cx.store, &room_id, &event_id, &mut watch);
        match ended {
            Ok(done) if done.done => Ok(Some(wire::purge_history_response(done))),
            Ok(_) if stopping.is_cancelled() => Err(status::stopping()),
            Ok(_) => Ok(None),
            Err(failure) => Err(of_purge(failure)),
        }
    })
}

pub(super) fn delete_room(
    cx: Arc<Context>,
    request: pb::DeleteRoomRequest,
    stopping: CancellationToken,
) -> News<pb::DeleteRoomResponse> {
    let pb::DeleteRoomRequest { room_id, may_return } = request;
    let metrics = cx.metrics.clone();
    run(&metrics, move |news| {
        let mut watch = |progress| {
            // A caller that is gone has still asked for the deletion.
            drop(news.blocking_send(Ok(wire::delete_room_response(progress))));
            if stopping.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let ended = ingest::delete_room(&cx.store, &room_id, may_return, &mut watch);
        match ended.map_err(of_delete)? {
            done if done.done => Ok(Some(wire::delete_room_response(done))),
            _ => Err(status::stopping()),
        }
    })
}

fn of_delete(failure: DeleteError) -> Status {
    let text = failure.to_string();
    match failure {
        DeleteError::RoomUnknown(_) => status::not_found("ROOM_UNKNOWN", &text),
        DeleteError::Store(failure) => status::of_store(&failure),
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

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
    ingest::{self, PurgeError},
    proto::v1::{self as pb, ErrorReason},
    store::StoreError,
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
        let ended = ingest::purge_history(&cx.store, (&room_id, &event_id), &mut watch);
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
        let failed = |failure: StoreError| status::of_store(&failure);
        let deleted = cx.store.delete_room(&room_id).map_err(failed)?;
        let forgotten = may_return && cx.store.forget_deleted_room(&room_id).map_err(failed)?;
        let Some(room) = deleted else {
            if forgotten {
                return Ok(Some(pb::DeleteRoomResponse { removed_record_count: 0, done: true }));
            }
            return Err(status::of_query(crate::query::QueryError::RoomUnknown(room_id)));
        };
        let mut removed_record_count = 0;
        loop {
            let removed = cx.store.remove_deleted(room).map_err(failed)?;
            if removed == 0 {
                return Ok(Some(pb::DeleteRoomResponse { removed_record_count, done: true }));
            }
            if stopping.is_cancelled() {
                // The next start goes on with it.
                return Err(status::stopping());
            }
            removed_record_count += u64::try_from(removed).unwrap_or(u64::MAX);
            // Whoever does not listen any more has still asked for it.
            drop(
                news.blocking_send(Ok(pb::DeleteRoomResponse {
                    removed_record_count,
                    done: false,
                })),
            );
        }
    })
}

fn of_purge(failure: PurgeError) -> Status {
    let text = failure.to_string();
    match failure {
        PurgeError::RoomUnknown(_) => status::refuse(ErrorReason::RoomUnknown, &text),
        PurgeError::EventUnknown(_) => status::refuse(ErrorReason::EventUnknown, &text),
        PurgeError::Store(failure) => status::of_store(&failure),
    }
}

//! The table from the history service's statuses to HTTP statuses, row by row.

use std::time::Duration;

use tokio::{io::AsyncReadExt as _, net::TcpListener};
use tonic::{Code, Status, transport::Uri};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::support::{Stage, history::refusal};

const TARGET: &str = "/_matrix/federation/v1/backfill/!r:us.example?v=$a&limit=1";

#[tokio::test]
async fn every_row() {
    let stage = Stage::start().await;
    for (code, reason, status, errcode) in [
        (Code::PermissionDenied, "NOT_ALLOWED", 403, "M_FORBIDDEN"),
        (Code::PermissionDenied, "ROOM_NOT_HELD", 403, "M_FORBIDDEN"),
        (Code::PermissionDenied, "ROOM_NOT_SERVED", 403, "M_FORBIDDEN"),
        (Code::PermissionDenied, "", 502, "M_UNKNOWN"),
        (Code::InvalidArgument, "EVENT_IDS_MISSING", 400, "M_MISSING_PARAM"),
        (Code::InvalidArgument, "LIMIT_MISSING", 400, "M_MISSING_PARAM"),
        (Code::InvalidArgument, "LIMIT_INVALID", 400, "M_INVALID_PARAM"),
        (Code::InvalidArgument, "SERVER_NAME_INVALID", 400, "M_INVALID_PARAM"),
        (Code::InvalidArgument, "SOMETHING_NEW", 400, "M_INVALID_PARAM"),
        (Code::NotFound, "ROOM_UNKNOWN", 404, "M_NOT_FOUND"),
        (Code::ResourceExhausted, "BUSY", 429, "M_LIMIT_EXCEEDED"),
        (Code::Unavailable, "STOPPING", 503, "M_UNKNOWN"),
        (Code::Unavailable, "STORE_AWAY", 503, "M_UNKNOWN"),
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", 504, "M_UNKNOWN"),
        (Code::Cancelled, "", 504, "M_UNKNOWN"),
        (Code::Unknown, "", 500, "M_UNKNOWN"),
        (Code::AlreadyExists, "", 500, "M_UNKNOWN"),
        (Code::FailedPrecondition, "", 500, "M_UNKNOWN"),
        (Code::Aborted, "", 429, "M_LIMIT_EXCEEDED"),
        (Code::OutOfRange, "", 500, "M_UNKNOWN"),
        (Code::Unimplemented, "", 500, "M_UNKNOWN"),
        (Code::Internal, "STORE_FAILED", 500, "M_UNKNOWN"),
        (Code::DataLoss, "STORE_CORRUPT", 500, "M_UNKNOWN"),
        (Code::Unauthenticated, "TOKEN_INVALID", 502, "M_UNKNOWN"),
    ] {
        stage.history.respond(move || Err(refusal(code, reason)));
        let answer = stage.get(TARGET).await;
        assert_eq!(answer.refusal(), (status, errcode.to_owned()), "{code:?} {reason}");
        let body = answer.json().to_string();
        assert!(!body.contains("inner workings"), "{body}");
        assert_eq!(answer.header("retry-after").is_some(), status == 429);
    }
}

/// The history service is stopped during a call: servers should repeat the request.
#[tokio::test]
async fn a_connection_that_breaks_is_no_fault_of_ours() {
    let breaking = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let history: Uri = format!("http://{}", breaking.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = breaking.accept().await.unwrap();
            // The preface, the settings, and the beginning of a call.
            stream.read_exact(&mut [0; 150]).await.unwrap();
        }
    });
    let stage = Stage::start_with(|options| options.history = history.into()).await;
    assert_eq!(stage.get(TARGET).await.refusal(), (503, "M_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn reasons_of_another_domain_are_not_ours() {
    let stage = Stage::start().await;
    stage.history.respond(|| {
        let details = ErrorDetails::with_error_info("LIMIT_MISSING", "else.example", []);
        Err(Status::with_error_details(Code::InvalidArgument, "", details))
    });
    assert_eq!(stage.get(TARGET).await.refusal(), (400, "M_INVALID_PARAM".to_owned()));
    stage.history.respond(|| Err(Status::invalid_argument("")));
    assert_eq!(stage.get(TARGET).await.refusal(), (400, "M_INVALID_PARAM".to_owned()));
}

#[tokio::test]
async fn how_long_to_wait_is_passed_on() {
    let stage = Stage::start().await;
    for (delay, ms, seconds) in
        [(Some(Duration::from_millis(2_500)), 2_500, "3"), (None, 1_000, "1")]
    {
        stage.history.respond(move || {
            let details = ErrorDetails::with_retry_info(delay);
            Err(Status::with_error_details(Code::ResourceExhausted, "", details))
        });
        let answer = stage.get(TARGET).await;
        assert_eq!(answer.refusal(), (429, "M_LIMIT_EXCEEDED".to_owned()));
        assert_eq!(answer.json()["retry_after_ms"], ms);
        assert_eq!(answer.header("retry-after"), Some(seconds));
    }
}

#[tokio::test]
async fn a_history_service_that_is_away_is_503() {
    let stage = Stage::start_with(|options| {
        // No program listens on port 1.
        options.history = "http://127.0.0.1:1".parse::<Uri>().unwrap().into();
    })
    .await;
    assert_eq!(stage.get(TARGET).await.refusal(), (503, "M_UNKNOWN".to_owned()));
}

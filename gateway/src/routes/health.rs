//! Probes of an orchestrator: `/healthz` (the process is alive) and `/readyz` (it can answer requests).

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Extension,
    extract::State,
    response::{IntoResponse, Response},
};

use crate::{
    answer,
    context::Context,
    error::ApiError,
    observe::{self, Quiet},
};

/// Responds with 200 while the process is alive.
pub(crate) async fn healthz() -> impl IntoResponse {
    observe::endpoint("healthz");
    (Extension(Quiet), answer::json(br#"{"status":"alive"}"#.to_vec()))
}

/// Responds with 200 while a history service reports SERVING, or the homeserver of a fallback answers,
/// and the gateway is not stopping.
pub(crate) async fn readyz(State(cx): State<Arc<Context>>) -> Response {
    observe::endpoint("readyz");
    let not_ready = |why| (Extension(Quiet), ApiError::not_ready(why)).into_response();
    if cx.stopping.load(Ordering::Acquire) {
        not_ready("This gateway is stopping")
    } else if cx.history.is_serving().await || homeserver_answers(&cx).await {
        (Extension(Quiet), answer::json(br#"{"status":"ready"}"#.to_vec())).into_response()
    } else {
        not_ready("The history service does not serve")
    }
}

async fn homeserver_answers(cx: &Context) -> bool {
    match &cx.fallback {
        Some(fallback) => fallback.homeserver.is_answering().await,
        None => false,
    }
}

//! All paths that the gateway answers, and those that it passes through.

use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{get, post},
};

use crate::{
    admission::admit,
    context::Context,
    error::ApiError,
    framing,
    observe::{Observer, observe},
    routes::{
        answered_by::answered_by,
        backfill::backfill,
        get_missing_events::get_missing_events,
        health::{healthz, readyz},
        pass_through::pass_through,
    },
};

// Synapse repeats a request with a trailing slash when it receives `M_UNRECOGNIZED`.
const BACKFILL: [&str; 2] =
    ["/_matrix/federation/v1/backfill/{room_id}", "/_matrix/federation/v1/backfill/{room_id}/"];
const GET_MISSING_EVENTS: [&str; 2] = [
    "/_matrix/federation/v1/get_missing_events/{room_id}",
    "/_matrix/federation/v1/get_missing_events/{room_id}/",
];

pub(crate) fn router(context: Arc<Context>) -> Router {
    let [backfill_path, backfill_slash] = BACKFILL;
    let [missing_path, missing_slash] = GET_MISSING_EVENTS;
    let admit = middleware::from_fn_with_state(Arc::clone(&context), admit);
    let observe = middleware::from_fn_with_state(Observer::from(context.metrics.clone()), observe);
    let has_fallback = context.fallback.is_some();
    let router = Router::new()
        .route(backfill_path, get(backfill))
        .route(backfill_slash, get(backfill))
        .route(missing_path, post(get_missing_events))
        .route(missing_slash, post(get_missing_events))
        // Probes below are not limited.
        .route_layer(admit)
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(pass_through)
        // axum adds the Allow header.
        .method_not_allowed_fallback(async || ApiError::wrong_method())
        .layer(middleware::from_fn(framing::check));
    let router = if has_fallback { router.layer(middleware::from_fn(answered_by)) } else { router };
    router.layer(observe).with_state(context)
}

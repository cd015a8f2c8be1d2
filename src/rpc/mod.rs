//! The doors: the only room that knows tonic and proto. A method decodes, calls one use case,
//! encodes; it decides nothing.
//!
//! Below here everything is synchronous: [`blocking`] is the one place where a request leaves the
//! async threads, so that a slow disk never stalls health checks. What [`work`] does on them for a
//! moment leaves one free for the same reason.

mod admin;
mod append;
mod history;
mod ingest;
mod keys;
mod news;
mod observe;
mod purge;
mod require;
mod status;
mod verify;
mod wire;
mod work;

use std::fmt;

use tonic::Status;
use tracing::{Span, error};

use crate::metrics::Metrics;

pub use admin::AdminDoor;
pub use history::HistoryDoor;
pub use ingest::IngestDoor;
pub use keys::KeyDoor;
pub use observe::Observe;
pub use require::{Guarded, Require};
pub use status::opening;

/// Largest message that is taken. A join in a room of 100,000 members brings the ids of as many
/// state events.
pub const MAX_REQUEST_BYTES: usize = 16 << 20;

/// Runs synchronous work off the async threads. A panic in it is one request's failure, not the
/// service's.
async fn blocking<T: Send + 'static>(
    metrics: &Metrics,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let span = Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    done.map_err(|failure| failed(metrics, failure))
}

/// What a caller hears of a request that failed in a way that should not be possible.
fn failed(metrics: &Metrics, failure: impl fmt::Display) -> Status {
    metrics.panicked();
    error!(%failure, "a request failed in a way that should not be possible");
    status::internal()
}

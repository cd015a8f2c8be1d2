//! While serving: is there space, has a write failed, how large has everything become, and is
//! something left to work out?

use std::{sync::Arc, time::Duration};

use tokio::time::{self, Instant};
use tonic_health::server::HealthReporter;
use tracing::{error, info, warn};

use super::health::{State, say};
use crate::{context::Context, ingest, query};

/// How often the store is asked how it is.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How often everything is measured, at most; and what part of the time that may take.
const MEASURE_EVERY: Duration = Duration::from_secs(30);
const MEASURE_SHARE: u32 = 100;

/// Takes the ingest service out of service while there is no space to write to. Returns when the
/// store has failed.
pub(super) async fn watch(cx: Arc<Context>, health: HealthReporter) {
    let mut had_space = true;
    loop {
        let asked = Arc::clone(&cx);
        let space = tokio::task::spawn_blocking(move || asked.store.check_space()).await;
        let has_space = match space {
            Ok(Ok(())) => true,
            Ok(Err(full)) => {
                if had_space {
                    error!("{full}");
                }
                false
            }
            Err(_) => false,
        };
        if has_space && !had_space {
            info!("there is space again: events are taken");
        }
        if has_space != had_space {
            say(&health, if has_space { State::Serving } else { State::DiskFull }).await;
            cx.metrics.disk_full(!has_space);
        }
        had_space = has_space;
        if cx.store.has_failed() {
            error!("a write to the store failed; stopping, since only opening it again helps");
            return;
        }
        time::sleep(WATCH_EVERY).await;
    }
}

/// Measures the whole store from time to time, less often the longer it takes.
pub(super) async fn measure(cx: Arc<Context>) -> ! {
    loop {
        let started = Instant::now();
        let asked = Arc::clone(&cx);
        match tokio::task::spawn_blocking(move || query::stats(&asked)).await {
            Ok(Ok(stats)) => cx.metrics.measured(stats.sizes),
            Ok(Err(failure)) => warn!(%failure, "the store could not be measured"),
            Err(failure) => warn!(%failure, "the store could not be measured"),
        }
        time::sleep(MEASURE_EVERY.max(started.elapsed() * MEASURE_SHARE)).await;
    }
}

/// Works out what appends have left, one turn after another.
pub(super) async fn work_off(cx: Arc<Context>) -> ! {
    loop {
        cx.backlog.wait().await;
        cx.metrics.backlog(cx.backlog.len());
        let working = Arc::clone(&cx);
        match tokio::task::spawn_blocking(move || ingest::work_off(&working)).await {
            Ok(Ok(_)) => {}
            // The room comes back with its next event, or when the service starts again.
            Ok(Err(failure)) => warn!(%failure, "states could not be worked out"),
            Err(failure) => {
                cx.metrics.panicked();
                error!(%failure, "states could not be worked out");
            }
        }
        cx.metrics.backlog(cx.backlog.len());
    }
}

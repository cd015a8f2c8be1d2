//! Background work while serving: checks the disk and the store, measures the store, and computes
//! states that appends have left.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::time::{self, Instant};
use tonic_health::server::HealthReporter;
use tracing::{error, info, warn};

use super::{
    health::{Health, report},
    recovery::recover_again,
};
use crate::{
    context::Context,
    ingest::{self, ContentRemoval, Pass},
    metrics::{DatabaseCounters, StoreGauges},
    query::{self, SharedSizes, Sizes},
    rpc::now_ms,
    store::{EngineCounts, NotServedReason, until},
};

/// The time between two checks of the store.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// The least time between two measurements of the store.
const MEASURE_EVERY: Duration = Duration::from_secs(30);
/// Measuring takes at most this fraction (1/100) of the time, and so does looking for content that is
/// to be removed.
const MEASURE_SHARE: u32 = 100;
/// The least time between two passes over the events whose content is to be removed.
const REMOVE_EVERY: Duration = Duration::from_secs(1);

/// Does all work in the background. Returns when a write to the store has failed.
pub(super) async fn in_background(cx: &Arc<Context>, health: &HealthReporter) {
    tokio::select! {
        () = watch(Arc::clone(cx), health.clone()) => {}
        _ = measure(Arc::clone(cx)) => {}
        _ = watch_standbys(Arc::clone(cx)) => {}
        _ = work_off(Arc::clone(cx)) => {}
        _ = remove_content(Arc::clone(cx)) => {}
        _ = recover_again(Arc::clone(cx)) => {}
    }
}

/// Reports that the ingest service does not serve while the volume is full. Returns when a write to
/// the store has failed.
async fn watch(cx: Arc<Context>, health: HealthReporter) {
    let mut had_space = true;
    let mut reach = Reach::default();
    loop {
        if cx.store.is_shared() {
            reach.look(&cx, &health, had_space).await;
        }
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
            info!("there is space again: events are accepted");
        }
        if has_space != had_space && !reach.is_away {
            report(&health, if has_space { Health::Serving } else { Health::DiskFull }).await;
            cx.metrics.store().disk_full.set((!has_space).into());
        }
        had_space = has_space;
        show_feeder(&cx);
        if let Some(counts) = cx.store.engine_counts() {
            show_database(counts, cx.metrics.database());
        }
        if cx.store.has_failed() {
            error!("a write to the store failed; stopping, since only opening it again helps");
            return;
        }
        time::sleep(WATCH_EVERY).await;
    }
}

/// Whether the database of a shared store can be reached.
#[derive(Debug, Default)]
struct Reach {
    /// When it could first not be reached; `None` while it can.
    lost_at: Option<Instant>,
    /// Whether that is so long ago that probes are told.
    is_away: bool,
}

impl Reach {
    /// Asks the database, and tells probes if that has failed for longer than the store's patience.
    async fn look(&mut self, cx: &Arc<Context>, health: &HealthReporter, has_space: bool) {
        let asked = Arc::clone(cx);
        let bound = std::time::Instant::now() + WATCH_EVERY;
        let ask = move || until(bound, || asked.store.learn_sets());
        let asked = tokio::task::spawn_blocking(ask).await;
        let failure = match asked {
            Ok(Err(failure)) if failure.is_away() => Some(failure),
            // The database has answered.
            Ok(Ok(()) | Err(_)) => None,
            Err(_panicked) => return,
        };
        if let (Some(failure), None) = (&failure, self.lost_at) {
            warn!(%failure, "the database of the store does not answer");
        }
        if failure.is_none() && self.lost_at.is_some() {
            info!("the database of the store answers again");
        }
        let was_away = self.is_away;
        self.note(failure.is_some(), Instant::now(), cx.store.patience());
        if self.is_away != was_away {
            let state = match (self.is_away, has_space) {
                (true, _) => Health::StoreAway,
                (false, true) => Health::Serving,
                (false, false) => Health::DiskFull,
            };
            report(health, state).await;
        }
    }

    fn note(&mut self, is_lost: bool, now: Instant, patience: Duration) {
        self.lost_at = is_lost.then(|| self.lost_at.unwrap_or(now));
        self.is_away = self.lost_at.is_some_and(|it| now.duration_since(it) >= patience);
    }
}

/// Shows what the engine of the store has counted as metrics.
fn show_database(counts: EngineCounts, counters: &DatabaseCounters) {
    let EngineCounts { round_trips, lost_connections, conflicts, unclear_commits } = counts;
    for (counter, count) in [
        (&counters.round_trips, round_trips),
        (&counters.lost_connections, lost_connections),
        (&counters.conflicts, conflicts),
        (&counters.unclear_commits, unclear_commits),
    ] {
        counter.inc_by(count.saturating_sub(counter.get()));
    }
}

/// Shows the feeder and the rooms that are not served as metrics.
fn show_feeder(cx: &Context) {
    let now = Instant::now().into_std();
    let gauges = cx.metrics.feeder();
    let status = cx.feeder.status(now);
    gauges.present.set(status.is_some().into());
    gauges.ready.set(status.is_some_and(|it| it.report.is_ready).into());
    gauges.lag_seconds.set(cx.feeder.lag(now).as_secs_f64());
    let counts = cx.store.count_rooms_not_served();
    for (reason, rooms) in NotServedReason::STORED.into_iter().zip(counts) {
        cx.metrics.rooms_not_served(reason.label(), rooms);
    }
}

/// Measures the whole store from time to time; the longer that takes, the less often. Of processes that
/// share a store, one measures it for all.
async fn measure(cx: Arc<Context>) -> ! {
    let mut shared = SharedSizes::default();
    loop {
        let started = Instant::now();
        let asked = Arc::clone(&cx);
        let mut looking = std::mem::take(&mut shared);
        let measuring = tokio::task::spawn_blocking(move || {
            if asked.store.is_shared() {
                let sizes = looking.look(&asked, std::time::Instant::now());
                (looking, sizes)
            } else {
                (looking, query::stats(&asked).map(|it| Some(it.sizes)))
            }
        });
        match measuring.await {
            Ok((looked, sizes)) => {
                shared = looked;
                match sizes {
                    Ok(Some(sizes)) => show(sizes, cx.metrics.store()),
                    Ok(None) => {}
                    Err(failure) => warn!(%failure, "the store could not be measured"),
                }
            }
            Err(failure) => warn!(%failure, "the store could not be measured"),
        }
        time::sleep(MEASURE_EVERY.max(started.elapsed() * MEASURE_SHARE)).await;
    }
}

/// Shows whether the servers that copy the database of the store have all that was acknowledged, and
/// warns when they need not have it.
async fn watch_standbys(cx: Arc<Context>) -> ! {
    let mut may_lag = false;
    loop {
        let asked = Arc::clone(&cx);
        match tokio::task::spawn_blocking(move || asked.store.replication()).await {
            Ok(Ok(Some(replication))) => {
                let may_lag_now = replication.may_lose();
                if may_lag_now && !may_lag {
                    warn!(
                        standbys = replication.standbys,
                        "no commit waits for a standby of the database: if one takes over, events that \
                         were acknowledged are lost; set synchronous_standby_names"
                    );
                }
                may_lag = may_lag_now;
                let gauges = cx.metrics.store();
                gauges.standbys.set(i64::try_from(replication.standbys).unwrap_or(i64::MAX));
                gauges.standbys_may_lag.set(may_lag.into());
            }
            // The records are on this machine.
            Ok(Ok(None)) => pending().await,
            // The database is away; the callers are told.
            Ok(Err(_)) => {}
            Err(failure) => warn!(%failure, "the standbys of the database could not be looked at"),
        }
        time::sleep(MEASURE_EVERY).await;
    }
}

/// Shows the sizes of the store as metrics.
fn show(sizes: Sizes, gauges: &StoreGauges) {
    let Sizes {
        rooms,
        events,
        forward_extremities,
        widest,
        gaps,
        waiting,
        unreadable,
        state_unknown,
        content_due,
        oldest_content_ms: _,
        not_served: _,
        store_bytes,
        free_bytes,
    } = sizes;
    for (gauge, value) in [
        (&gauges.rooms, rooms),
        (&gauges.events, events),
        (&gauges.forward_extremities, forward_extremities),
        (&gauges.widest, widest),
        (&gauges.gaps, gaps),
        (&gauges.waiting, waiting),
        (&gauges.unreadable, unreadable),
        (&gauges.state_unknown, state_unknown),
        (&gauges.content_due, content_due),
        (&gauges.store_bytes, store_bytes),
        (&gauges.free_bytes, free_bytes),
    ] {
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    }
}

/// Computes the states that appends have left, one batch after another.
async fn work_off(cx: Arc<Context>) -> ! {
    loop {
        cx.backlog.wait().await;
        cx.metrics.backlog(cx.backlog.len());
        let working = Arc::clone(&cx);
        match tokio::task::spawn_blocking(move || ingest::work_off(&working)).await {
            Ok(Ok(_)) => {}
            // The room is queued again with its next event, or when the service starts again.
            Ok(Err(failure)) => warn!(%failure, "states could not be computed"),
            Err(failure) => {
                cx.metrics.panicked();
                error!(%failure, "states could not be computed");
            }
        }
        cx.metrics.backlog(cx.backlog.len());
    }
}

/// Removes the content of redacted events when its time has come.
async fn remove_content(cx: Arc<Context>) -> ! {
    let mut removal = ContentRemoval::default();
    loop {
        let started = Instant::now();
        loop {
            let turn_started = Instant::now();
            let working = Arc::clone(&cx);
            let turn = tokio::task::spawn_blocking(move || {
                let pass = removal.turn(&working, now_ms());
                (removal, pass)
            });
            match turn.await {
                Ok((continued, Ok(Pass::Continues))) => {
                    removal = continued;
                    // Everything else goes first.
                    time::sleep(turn_started.elapsed()).await;
                }
                Ok((continued, Ok(Pass::Ended))) => {
                    removal = continued;
                    break;
                }
                Ok((_, Err(failure))) => {
                    warn!(%failure, "content of redacted events could not be removed");
                    removal = ContentRemoval::default();
                    break;
                }
                Err(failure) => {
                    cx.metrics.panicked();
                    error!(%failure, "content of redacted events could not be removed");
                    removal = ContentRemoval::default();
                    break;
                }
            }
        }
        time::sleep(REMOVE_EVERY.max(started.elapsed() * MEASURE_SHARE)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_away_when_it_was_lost_for_longer_than_the_patience() {
        let start = Instant::now();
        let patience = Duration::from_secs(30);
        let mut reach = Reach::default();
        for (second, is_lost, is_away) in [
            (0, false, false),
            (1, true, false),
            (30, true, false),
            (31, true, true),
            (40, true, true),
            (41, false, false),
            (42, true, false),
            (71, true, false),
            (72, true, true),
        ] {
            reach.note(is_lost, start + Duration::from_secs(second), patience);
            assert_eq!(reach.is_away, is_away, "after {second} s");
        }
    }
}

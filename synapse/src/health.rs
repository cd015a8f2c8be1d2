//! The health of the follower, for probes of an orchestrator, and the server for probes and metrics:
//! `/startupz` (the schema of the database was checked), `/healthz` (the process is alive), `/readyz`
//! (the rooms are complete, and the lag is short) and `/metrics`.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use backscroll_telemetry::metrics_router;
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::Notify, time::Instant};

/// The longest lag with which the follower is ready.
const MAX_LAG: Duration = Duration::from_secs(5);
/// The description until the first tick has ended.
const NO_TICK: &str = "no tick has ended yet";

/// The health of the follower. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    state: Arc<Mutex<HealthState>>,
    tick_ended: Arc<Notify>,
}

#[derive(Debug, Default)]
struct HealthState {
    is_schema_checked: bool,
    last_tick: Option<LastTick>,
}

#[derive(Debug)]
struct LastTick {
    began: Instant,
    not_ready: Option<String>,
}

impl Health {
    /// Records that the role, the schema and the version of the database can be followed.
    pub(crate) fn schema_checked(&self) {
        self.lock().is_schema_checked = true;
    }

    /// Records that everything was acknowledged that was visible at `began`. `not_ready` describes why
    /// the rooms are not complete yet; `None` if they are.
    pub(crate) fn tick_ended(&self, began: Instant, not_ready: Option<String>) {
        self.lock().last_tick = Some(LastTick { began, not_ready });
        self.tick_ended.notify_waiters();
    }

    /// Waits until a tick has ended that began after a moment.
    pub(crate) async fn tick_after(&self, moment: Instant) {
        loop {
            let mut ended = pin!(self.tick_ended.notified());
            ended.as_mut().enable();
            if self.lock().last_tick.as_ref().is_some_and(|it| it.began > moment) {
                return;
            }
            ended.await;
        }
    }

    /// The time since the beginning of the last tick that ended. `None` if none has ended.
    #[must_use]
    pub(crate) fn lag(&self, now: Instant) -> Option<Duration> {
        self.lock().last_tick.as_ref().map(|it| now.duration_since(it.began))
    }

    /// Whether the schema was checked.
    #[must_use]
    pub(crate) fn is_started(&self) -> bool {
        self.lock().is_schema_checked
    }

    /// Why the follower is not ready, for people; `None` if it is ready.
    #[must_use]
    pub(crate) fn not_ready(&self, now: Instant) -> Option<String> {
        let state = self.lock();
        let Some(LastTick { began, not_ready }) = &state.last_tick else {
            return Some(NO_TICK.to_owned());
        };
        let lag = now.duration_since(*began);
        let is_behind = lag > MAX_LAG;
        let behind = || format!("the last tick began {:.1} seconds ago", lag.as_secs_f64());
        not_ready.clone().or_else(|| is_behind.then(behind))
    }

    fn lock(&self) -> MutexGuard<'_, HealthState> {
        // The state has no invariant that a panic could break.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts to serve probes and metrics over HTTP, for as long as the process runs.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) async fn serve(
    address: SocketAddr,
    registry: Arc<Registry>,
    health: Health,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (--metrics-listen)"))?;
    let probes = Router::new()
        .route("/startupz", get(startupz))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(health);
    let router = probes.merge(metrics_router(registry));
    drop(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics and health are no longer served");
        }
    }));
    Ok(())
}

async fn startupz(State(health): State<Health>) -> Response {
    match health.is_started() {
        true => report(StatusCode::OK, "started"),
        false => report(StatusCode::SERVICE_UNAVAILABLE, "the schema was not checked yet"),
    }
}

async fn healthz() -> Response {
    report(StatusCode::OK, "alive")
}

async fn readyz(State(health): State<Health>) -> Response {
    match health.not_ready(Instant::now()) {
        None => report(StatusCode::OK, "ready"),
        Some(why) => report(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

fn report(status: StatusCode, what: &str) -> Response {
    let body = serde_json::json!({ "status": what }).to_string();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ready_is_complete_and_current() {
        let health = Health::default();
        assert_eq!(health.not_ready(Instant::now()).as_deref(), Some(NO_TICK));
        assert_eq!(health.lag(Instant::now()), None);
        let began = Instant::now();
        health.tick_ended(began, Some("importing".to_owned()));
        assert_eq!(health.not_ready(began).as_deref(), Some("importing"));
        health.tick_ended(began, None);
        assert_eq!(health.not_ready(began + MAX_LAG), None);
        let late = began + MAX_LAG + Duration::from_millis(100);
        assert_eq!(health.not_ready(late).unwrap(), "the last tick began 5.1 seconds ago");
        assert_eq!(health.lag(late), Some(late - began));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tick_that_began_before_is_not_the_next_one() {
        let health = Health::default();
        let began = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        let (moment, waiting) = (Instant::now(), health.clone());
        let waiting = tokio::spawn(async move { waiting.tick_after(moment).await });
        tokio::task::yield_now().await;
        health.tick_ended(began, None);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        health.tick_ended(moment + Duration::from_millis(1), None);
        tokio::time::timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn probes_follow_the_health() {
        let health = Health::default();
        assert_eq!(startupz(State(health.clone())).await.status(), 503);
        assert_eq!(readyz(State(health.clone())).await.status(), 503);
        assert_eq!(healthz().await.status(), 200);
        health.schema_checked();
        health.tick_ended(Instant::now(), None);
        assert_eq!(startupz(State(health.clone())).await.status(), 200);
        assert_eq!(readyz(State(health)).await.status(), 200);
    }
}

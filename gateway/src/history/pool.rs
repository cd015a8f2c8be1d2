//! The history services behind the addresses that we were given: a host's every address is one,
//! looked up again and again, so that a headless Service is followed as it grows and shrinks.
//!
//! A question goes to the one with the least under way among those that say of themselves that
//! they serve. If none does, it goes to any: an old word is no reason not to ask.

use std::{
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::{HeaderMap, Uri};
use backscroll_tls::Dialer;
use futures_util::future::join_all;
use prost::Message;
use tokio::{
    net::lookup_host,
    sync::Mutex,
    time::{self, Instant},
};
use tonic::Status;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};

use super::{
    HISTORY_SERVICE,
    call::{Framed, call},
    connection::Connection,
    options::HistoryOptions,
};
use crate::{limits::Room, workers};

/// Shorter than a prober's patience.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often every service is asked how it is.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// How often names are looked up.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// How long a connection is used. An address may stand for several services, such as that of a
/// Service with a cluster address: connections that last would keep to the one they met first.
const CONNECTION_AGE: Duration = Duration::from_secs(300);
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// Most services that are used.
const MAX_ENDPOINTS: usize = 64;

/// All of them.
#[derive(Debug)]
pub(super) struct Pool {
    options: HistoryOptions,
    threads: usize,
    room: Arc<Room>,
    endpoints: RwLock<Vec<Arc<Endpoint>>>,
    /// Where the search for the next one starts: those with as little under way take turns.
    turn: AtomicUsize,
    resolving: Mutex<()>,
}

/// One of them.
#[derive(Debug)]
struct Endpoint {
    address: SocketAddr,
    url: Uri,
    /// One for each thread, so that a question and its answer stay on it, and one for the others.
    connections: Vec<Connection>,
    serves: AtomicBool,
    under_way: AtomicUsize,
    since: Instant,
}

/// One of them, for a question; counts as under way while it is held.
#[derive(Debug)]
pub(super) struct Chosen(Arc<Endpoint>);

impl Pool {
    /// Connects to nothing yet, and looks after the services for as long as somebody holds this.
    pub(super) fn start(options: HistoryOptions, threads: usize, room: Arc<Room>) -> Arc<Self> {
        let pool = Arc::new(Self {
            options,
            threads,
            room,
            endpoints: RwLock::default(),
            turn: AtomicUsize::new(0),
            resolving: Mutex::default(),
        });
        let watched = Arc::downgrade(&pool);
        tokio::spawn(async move {
            let mut resolved = None;
            while let Some(pool) = watched.upgrade() {
                let is_due = resolved.is_none_or(|at: Instant| at.elapsed() >= RESOLVE_EVERY);
                if (is_due || pool.all().is_empty()) && pool.resolve().await {
                    resolved = Some(Instant::now());
                }
                pool.renew();
                pool.check().await;
                drop(pool);
                time::sleep(CHECK_EVERY).await;
            }
        });
        pool
    }

    fn all(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One to ask, another than `not` if there is one.
    pub(super) async fn choose(&self, not: Option<&Chosen>) -> Result<Chosen, Status> {
        self.resolve_once().await;
        let all = self.all();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let nth = |it: usize| it.wrapping_sub(turn) % all.len();
        let best = all.iter().enumerate().min_by_key(|(at, it)| {
            let is_other = not.is_none_or(|not| !Arc::ptr_eq(it, &not.0));
            let serves = it.serves.load(Ordering::Relaxed);
            (!is_other, !serves, it.under_way.load(Ordering::Relaxed), nth(*at))
        });
        let none = || Status::unavailable("no address of a history service is known");
        let (_, best) = best.ok_or_else(none)?;
        best.under_way.fetch_add(1, Ordering::Relaxed);
        Ok(Chosen(Arc::clone(best)))
    }

    /// Whether any serves, asked now.
    pub(super) async fn is_serving(&self) -> bool {
        self.resolve_once().await;
        self.check().await
    }

    async fn resolve_once(&self) {
        if self.all().is_empty() {
            let _one_at_a_time = self.resolving.lock().await;
            if self.all().is_empty() {
                self.resolve().await;
            }
        }
    }

    /// Asks every service how it is. Whether any serves.
    async fn check(&self) -> bool {
        let all = self.all();
        let checks = all.iter().map(|endpoint| async {
            let serves = endpoint.check().await;
            if endpoint.serves.swap(serves, Ordering::Relaxed) != serves {
                tracing::info!(address = %endpoint.address, serves, "a history service changed");
            }
            serves
        });
        join_all(checks).await.contains(&true)
    }

    /// Looks all names up. Whether that was possible; what cannot be looked up stays as it was.
    async fn resolve(&self) -> bool {
        let (mut found, mut all_found) = (Vec::new(), true);
        for url in &self.options.urls {
            match addresses(url).await {
                Ok(addresses) => found.extend(addresses.map(|it| (url, it))),
                Err(error) => {
                    tracing::warn!(%url, %error, "cannot look up a history service");
                    all_found = false;
                    let before = self.all().into_iter().filter(|it| it.url == *url);
                    found.extend(before.map(|it| (url, it.address)));
                }
            }
        }
        found.truncate(MAX_ENDPOINTS);
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        let mut next: Vec<Arc<Endpoint>> = Vec::new();
        for (url, address) in found {
            if next.iter().any(|it| it.address == address) {
                continue;
            }
            let known = endpoints.iter().find(|it| it.address == address && it.url == *url);
            next.push(known.cloned().unwrap_or_else(|| self.endpoint(url, address, true)));
        }
        *endpoints = next;
        all_found
    }

    /// Replaces connections that have been used for long; what is under way on them is finished.
    fn renew(&self) {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        // One at a time.
        if let Some(old) = endpoints.iter_mut().find(|it| it.since.elapsed() >= CONNECTION_AGE) {
            let serves = old.serves.load(Ordering::Relaxed);
            *old = self.endpoint(&old.url, old.address, serves);
        }
    }

    fn endpoint(&self, url: &Uri, address: SocketAddr, serves: bool) -> Arc<Endpoint> {
        let host = url.host().unwrap_or_default().to_owned();
        let tls = if is_tls(url) { self.options.tls.clone() } else { None };
        let dialer = Dialer { tls, host };
        Arc::new(Endpoint {
            address,
            url: url.clone(),
            connections: (0..=self.threads)
                .map(|_| Connection::new(address, dialer.clone(), Arc::clone(&self.room)))
                .collect(),
            serves: AtomicBool::new(serves),
            under_way: AtomicUsize::new(0),
            since: Instant::now(),
        })
    }
}

impl Endpoint {
    /// Whether the service says of itself that it answers.
    async fn check(&self) -> bool {
        let question = Framed::new(&HealthCheckRequest { service: HISTORY_SERVICE.to_owned() });
        let answer = self.call::<HealthCheckResponse>(HEALTH_CHECK, (HeaderMap::new(), question));
        let answer = time::timeout(HEALTH_TIMEOUT, answer).await;
        let status = answer.ok().and_then(Result::ok).map(|it| it.status());
        status == Some(ServingStatus::Serving)
    }

    async fn call<A: Message + Default>(
        &self,
        path: &'static str,
        (headers, question): (HeaderMap, Framed),
    ) -> Result<A, Status> {
        let connection = self.connections.get(workers::nth()).or(self.connections.first());
        let connection = connection.ok_or_else(|| Status::internal("there is no connection"))?;
        call(connection, (&self.url, path), (headers, question)).await
    }
}

impl Chosen {
    /// Asks it.
    pub(super) async fn call<A: Message + Default>(
        &self,
        path: &'static str,
        question: (HeaderMap, Framed),
    ) -> Result<A, Status> {
        self.0.call(path, question).await
    }

    /// Not to be chosen until it says that it serves.
    pub(super) fn is_away(&self) {
        self.0.serves.store(false, Ordering::Relaxed);
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

fn is_tls(url: &Uri) -> bool {
    url.scheme_str() == Some("https")
}

async fn addresses(url: &Uri) -> std::io::Result<impl Iterator<Item = SocketAddr>> {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = url.port_u16().unwrap_or(if is_tls(url) { 443 } else { 80 });
    lookup_host((host, port)).await
}

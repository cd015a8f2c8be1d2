//! The instances of the history service. Every address of a host is one instance; hosts are looked
//! up again regularly, so that a headless Kubernetes Service is followed as it grows and shrinks.
//!
//! A question goes to the instance with the fewest questions under way among those that report
//! SERVING. If none reports that, it goes to any: an outdated report is no reason not to ask. An
//! instance that does not know the feeder is asked after the others, until the next health check.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::{HeaderMap, Uri};
use backscroll_grpc_client::{Call, Connect, EncodedMessage};
use backscroll_tls::{ClientConfig, Dialer, Watched};
use futures_util::future::join_all;
use tokio::{
    net::lookup_host,
    sync::Mutex,
    time::{self, Instant},
};
use tonic::Status;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};

use super::HISTORY_SERVICE;
use crate::limits::AnswerMemory;

/// Longest wait for a health check. Shorter than the timeout of the probes that ask `/readyz`.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two health checks of all instances.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Pause between two lookups of all hosts.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(30);
/// How long a connection is used. An address may stand for several instances, such as the cluster
/// address of a Kubernetes Service. A connection that is never replaced would stay with the
/// instance it reached first.
const CONNECTION_AGE: Duration = Duration::from_secs(300);
const HEALTH_CHECK_PATH: &str = "/grpc.health.v1.Health/Check";
/// Most instances that are used.
const MAX_INSTANCES: usize = 64;

/// A connection to one instance of the history service.
type InstanceConnection = backscroll_grpc_client::Connection<InstanceConnector>;

/// All known instances, and the choice between them.
#[derive(Debug)]
pub(super) struct Pool {
    urls: Vec<Uri>,
    tls: Option<Arc<Watched<ClientConfig>>>,
    memory: Arc<AnswerMemory>,
    instances: RwLock<Vec<Arc<Instance>>>,
    /// Where the search starts: instances with equally many questions under way take turns.
    turn: AtomicUsize,
    /// Held during a lookup that a question waits for, so that others wait for the same one.
    lookup: Mutex<()>,
}

/// One instance: an address, and the connection to it.
#[derive(Debug)]
struct Instance {
    address: SocketAddr,
    url: Uri,
    connection: InstanceConnection,
    is_serving: AtomicBool,
    /// Whether it has answered, since the last health check, that it does not know a feeder.
    is_without_feeder: AtomicBool,
    /// Number of questions under way.
    under_way: AtomicUsize,
    connected_at: Instant,
}

/// The instance that was chosen for a question, which counts as under way until this is dropped.
#[derive(Debug)]
pub(super) struct Chosen(Arc<Instance>);

impl Pool {
    /// Creates the pool, without connections. A task keeps it up to date until it is dropped.
    pub(super) fn start(
        urls: Vec<Uri>,
        tls: Option<Arc<Watched<ClientConfig>>>,
        memory: Arc<AnswerMemory>,
    ) -> Arc<Self> {
        let pool = Arc::new(Self {
            urls,
            tls,
            memory,
            instances: RwLock::default(),
            turn: AtomicUsize::new(0),
            lookup: Mutex::default(),
        });
        let watched = Arc::downgrade(&pool);
        tokio::spawn(async move {
            let mut looked_up = None;
            while let Some(pool) = watched.upgrade() {
                let is_due = looked_up.is_none_or(|at: Instant| at.elapsed() >= LOOKUP_INTERVAL);
                if (is_due || pool.all().is_empty()) && pool.look_up().await {
                    looked_up = Some(Instant::now());
                }
                pool.renew_oldest();
                pool.check().await;
                drop(pool);
                time::sleep(CHECK_INTERVAL).await;
            }
        });
        pool
    }

    fn all(&self) -> Vec<Arc<Instance>> {
        self.instances.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Chooses an instance; another one than `except`, if there is another.
    pub(super) async fn choose(&self, except: Option<&Chosen>) -> Result<Chosen, Status> {
        self.look_up_if_empty().await;
        let all = self.all();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let distance = |index: usize| index.wrapping_sub(turn) % all.len();
        let best = all.iter().enumerate().min_by_key(|(index, instance)| {
            let is_excepted = except.is_some_and(|except| Arc::ptr_eq(instance, &except.0));
            let is_serving = instance.is_serving.load(Ordering::Relaxed);
            let is_without_feeder = instance.is_without_feeder.load(Ordering::Relaxed);
            let under_way = instance.under_way.load(Ordering::Relaxed);
            (is_excepted, !is_serving, is_without_feeder, under_way, distance(*index))
        });
        let none = || Status::unavailable("no address of a history service is known");
        let (_, best) = best.ok_or_else(none)?;
        best.under_way.fetch_add(1, Ordering::Relaxed);
        Ok(Chosen(Arc::clone(best)))
    }

    /// Whether any instance reports SERVING, asked now.
    pub(super) async fn is_serving(&self) -> bool {
        self.look_up_if_empty().await;
        self.check().await
    }

    async fn look_up_if_empty(&self) {
        if self.all().is_empty() {
            let _one_at_a_time = self.lookup.lock().await;
            if self.all().is_empty() {
                self.look_up().await;
            }
        }
    }

    /// Checks the health of every instance. Whether any reports SERVING.
    async fn check(&self) -> bool {
        let all = self.all();
        let checks = all.iter().map(|instance| async {
            let is_serving = instance.check(&self.memory).await;
            // The feeder may have gone to another instance.
            instance.is_without_feeder.store(false, Ordering::Relaxed);
            if instance.is_serving.swap(is_serving, Ordering::Relaxed) != is_serving {
                let address = instance.address;
                tracing::info!(%address, is_serving, "the health of a history service changed");
            }
            is_serving
        });
        join_all(checks).await.contains(&true)
    }

    /// Looks up all hosts. Whether that succeeded for all; the instances of a host that cannot be
    /// looked up are kept.
    async fn look_up(&self) -> bool {
        let mut found = Vec::new();
        let mut all_succeeded = true;
        for url in &self.urls {
            match addresses(url).await {
                Ok(addresses) => found.extend(addresses.map(|it| (url, it))),
                Err(error) => {
                    tracing::warn!(%url, %error, "cannot look up a history service");
                    all_succeeded = false;
                    let known = self.all().into_iter().filter(|it| it.url == *url);
                    found.extend(known.map(|it| (url, it.address)));
                }
            }
        }
        found.truncate(MAX_INSTANCES);
        let mut instances = self.instances.write().unwrap_or_else(PoisonError::into_inner);
        let mut next: Vec<Arc<Instance>> = Vec::new();
        for (url, address) in found {
            if next.iter().any(|it| it.address == address) {
                continue;
            }
            let known = instances.iter().find(|it| it.address == address && it.url == *url);
            next.push(known.cloned().unwrap_or_else(|| self.instance(url, address, true)));
        }
        *instances = next;
        all_succeeded
    }

    /// Replaces one connection that has been used for [`CONNECTION_AGE`]. Questions under way on it
    /// are finished.
    fn renew_oldest(&self) {
        let mut instances = self.instances.write().unwrap_or_else(PoisonError::into_inner);
        let old = instances.iter_mut().find(|it| it.connected_at.elapsed() >= CONNECTION_AGE);
        if let Some(old) = old {
            let is_serving = old.is_serving.load(Ordering::Relaxed);
            *old = self.instance(&old.url, old.address, is_serving);
        }
    }

    fn instance(&self, url: &Uri, address: SocketAddr, is_serving: bool) -> Arc<Instance> {
        let host = url.host().unwrap_or_default().to_owned();
        let tls = if is_tls(url) { self.tls.clone() } else { None };
        let connector = InstanceConnector { dialer: Dialer { tls, host }, address };
        Arc::new(Instance {
            address,
            url: url.clone(),
            connection: InstanceConnection::new(url.clone(), connector),
            is_serving: AtomicBool::new(is_serving),
            is_without_feeder: AtomicBool::new(false),
            under_way: AtomicUsize::new(0),
            connected_at: Instant::now(),
        })
    }
}

impl Instance {
    /// Whether the instance reports SERVING for the history service, in time.
    async fn check(&self, memory: &AnswerMemory) -> bool {
        let request = HealthCheckRequest { service: HISTORY_SERVICE.to_owned() };
        let message = EncodedMessage::new(&request);
        let call = Call { path: HEALTH_CHECK_PATH, headers: HeaderMap::new(), message };
        let answer = self.connection.call::<HealthCheckResponse>(call, memory);
        let answer = time::timeout(HEALTH_TIMEOUT, answer).await;
        let status = answer.ok().and_then(Result::ok).map(|it| it.status());
        status == Some(ServingStatus::Serving)
    }
}

impl Chosen {
    pub(super) fn connection(&self) -> &InstanceConnection {
        &self.0.connection
    }

    /// Leaves the instance out of the choice until it reports SERVING again.
    pub(super) fn set_unavailable(&self) {
        self.0.is_serving.store(false, Ordering::Relaxed);
    }

    /// Puts the instance behind those that may know the feeder, until the next health check.
    pub(super) fn set_without_feeder(&self) {
        self.0.is_without_feeder.store(true, Ordering::Relaxed);
    }

    /// Whether the instance has answered, since the last health check, that it does not know a feeder.
    pub(super) fn is_without_feeder(&self) -> bool {
        self.0.is_without_feeder.load(Ordering::Relaxed)
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connects to an instance, in the clear or with TLS.
#[derive(Debug)]
pub(super) struct InstanceConnector {
    dialer: Dialer,
    address: SocketAddr,
}

impl Connect for InstanceConnector {
    type Stream = backscroll_tls::ClientStream;

    async fn connect(&self) -> io::Result<Self::Stream> {
        Ok(self.dialer.dial(self.address).await?.into_inner())
    }
}

fn is_tls(url: &Uri) -> bool {
    url.scheme_str() == Some("https")
}

async fn addresses(url: &Uri) -> io::Result<impl Iterator<Item = SocketAddr>> {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = url.port_u16().unwrap_or(if is_tls(url) { 443 } else { 80 });
    lookup_host((host, port)).await
}

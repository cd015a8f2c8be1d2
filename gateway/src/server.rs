//! Accepts connections, and stops without failing requests.
//!
//! Stopping has three steps. First `/readyz` responds with 503, for as long as load balancers need to
//! notice. Then no connection is accepted, and requests under way are finished. Connections that are
//! still open when the drain timeout ends are closed.

use std::{
    io,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::Uri;
use backscroll_tls::{ServerConfig, Watched};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    clock::Clock,
    connection::{Accepted, Protocols},
    context::Context,
    fallback::{Fallback, FallbackOptions},
    handshakes::Handshakes,
    history::{FeederState, History, HistoryOptions},
    keys::{FetchOptions, Keys, PinnedKeys},
    limits::{EvictionHandle, LimitOptions, Limits},
    metrics::Metrics,
    random::Random,
    router::router,
    server_name::ServerName,
    shadow::{Shadow, ShadowOptions},
};

/// Pause after a connection could not be accepted, such as without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Pause between two questions about the feeder of the history service.
const FEEDER_INTERVAL: Duration = Duration::from_secs(1);

/// The options of a gateway. [`Options::new`] has the defaults of the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the homeserver: the destination of all requests, and the origin of all responses.
    pub server_name: ServerName,
    /// The history services, and how to authenticate to them.
    pub history: HistoryOptions,
    /// The certificate to serve TLS with. Its files are read again when they change. `None`: serve in
    /// the clear.
    pub tls: Option<Arc<Watched<ServerConfig>>>,
    /// The homeserver that answers what the history service cannot. `None`: nothing is passed on.
    pub fallback: Option<FallbackOptions>,
    /// Which answers of the homeserver are compared; only with a fallback. `None`: none.
    pub shadow: Option<ShadowOptions>,
    /// Keys of other servers that are never fetched.
    pub keys: PinnedKeys,
    /// How the keys of all other servers are fetched. `None`: only servers with pinned keys can be
    /// authenticated.
    pub fetching: Option<FetchOptions>,
    /// The wall clock and the steady clock.
    pub clock: Clock,
    /// Random numbers, for waits and choices.
    pub random: Random,
    /// Where requests are counted and measured.
    pub metrics: Metrics,
    /// Longest time for an answer, from when the request is received completely.
    pub request_timeout: Duration,
    /// Limits on clients and servers.
    pub limits: LimitOptions,
    /// How long to accept requests while `/readyz` responds with 503.
    pub shutdown_notice: Duration,
    /// Longest time for requests under way to finish after that.
    pub drain_timeout: Duration,
}

impl Options {
    /// The default of [`Self::request_timeout`].
    pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
    /// The default of [`Self::shutdown_notice`].
    pub const SHUTDOWN_NOTICE: Duration = Duration::ZERO;
    /// The default of [`Self::drain_timeout`].
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

    /// The defaults, without any keys: no request can be authenticated.
    #[must_use]
    pub fn new(server_name: ServerName, history: Uri) -> Self {
        Self::with_history(server_name, history.into())
    }

    /// The same, for history services that need more than a URL.
    #[must_use]
    pub fn with_history(server_name: ServerName, history: HistoryOptions) -> Self {
        Self {
            server_name,
            history,
            tls: None,
            fallback: None,
            shadow: None,
            keys: PinnedKeys::default(),
            fetching: None,
            clock: Clock::system(),
            random: Random::system(),
            metrics: Metrics::new(),
            request_timeout: Self::REQUEST_TIMEOUT,
            limits: LimitOptions::default(),
            shutdown_notice: Self::SHUTDOWN_NOTICE,
            drain_timeout: Self::DRAIN_TIMEOUT,
        }
    }
}

/// Serves until `shutdown` completes, then stops. Returns when every connection is closed. Dropping the
/// future closes all connections at once.
///
/// The history service need not be running yet. A failure to accept a connection is not an error: it is
/// repeated.
///
/// # Errors
/// When the thread for TLS handshakes cannot be started.
pub async fn serve(
    listener: TcpListener,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let Options { server_name, history, keys, fetching, clock, random, .. } = options;
    let Options { request_timeout, limits, metrics, tls, fallback, .. } = options;
    let bounds = Limits::new(limits.clone(), &metrics);
    let history = Arc::new(History::new(history, metrics.clone(), bounds.answer_memory()));
    let fallback =
        fallback.map(|fallback| Fallback::new(fallback, clock.clone(), metrics.fallback()));
    let shadow = options.shadow.zip(fallback.as_ref()).map(|(shadow, fallback)| {
        shadow.results.count_in(metrics.shadow());
        let (history, homeserver) = (Arc::clone(&history), Arc::clone(&fallback.homeserver));
        Shadow::new(shadow, history, homeserver, clock.clone(), random.clone())
    });
    let keys = Keys::new(keys, fetching, history.stored_keys(), clock.clone(), random);
    let cx = Arc::new(Context {
        server_name,
        clock,
        keys,
        history,
        fallback,
        shadow,
        max_body_bytes: limits.max_body_bytes,
        body_timeout: limits.body_timeout,
        request_timeout,
        limits: bounds,
        metrics,
        stopping: AtomicBool::new(false),
    });
    let tls = tls.map(|tls| {
        tls.watch();
        Handshakes::start(tls, limits.head_timeout)
    });
    let router = router(Arc::clone(&cx));
    let mut server = Server {
        listener,
        cx: Arc::clone(&cx),
        protocols: Protocols::new(tls.transpose()?, &limits, Arc::clone(&cx), router),
        connections: JoinSet::new(),
    };
    let late = Arc::clone(&cx);
    let late = tokio::spawn(async move { late.limits.evict_late_answers().await });
    let _late = AbortOnDropHandle::new(late);
    let watching = Arc::clone(&cx);
    let watching = tokio::spawn(async move { watch_feeder(&watching).await });
    let _watching = AbortOnDropHandle::new(watching);

    server.accept_until(shutdown).await;
    cx.stopping.store(true, Ordering::Release);
    tracing::info!("stopping: not ready");
    server.accept_until(time::sleep(options.shutdown_notice)).await;
    server.drain(options.drain_timeout).await;
    Ok(())
}

/// Shows in the metrics how far the feeder of the history service is, if there is a fallback.
async fn watch_feeder(cx: &Context) {
    let Some(fallback) = &cx.fallback else { return };
    loop {
        let FeederState { is_ready, lag } = cx.history.feeder().await;
        fallback.metrics.feeder(is_ready, lag);
        time::sleep(FEEDER_INTERVAL).await;
    }
}

struct Server {
    listener: TcpListener,
    cx: Arc<Context>,
    protocols: Protocols,
    connections: JoinSet<()>,
}

impl Server {
    async fn accept_until(&mut self, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => return,
                Some(_closed) = self.connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => self.spawn(stream, peer.ip()),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn spawn(&mut self, stream: TcpStream, peer: IpAddr) {
        let close = CancellationToken::new();
        let eviction = EvictionHandle::new(close.clone());
        let Some(share) = self.cx.limits.connection(peer, eviction) else { return };
        // Responses are written completely: a delay for more data would not help.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let accepted = Accepted { stream, peer, share, close };
        self.connections.spawn(self.protocols.clone().serve(accepted));
    }

    async fn drain(self, deadline: Duration) {
        let Self { listener, mut connections, protocols, .. } = self;
        drop(listener);
        protocols.closing.cancel();
        let drained =
            time::timeout(deadline, async { while connections.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "closed connections that did not finish in time"
            );
        }
    }
}

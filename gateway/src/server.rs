//! Sockets: accepting, serving HTTP/1.1, and stopping without cutting anybody off.
//!
//! Stopping has three steps: `/readyz` says so, for as long as load balancers need to notice;
//! then nothing new is accepted and requests under way are finished; what is still not finished
//! when the drain deadline passes is cut off.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::Request, http::Uri};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    context::Context,
    history::History,
    keys::{Fetching, Keys, PinnedKeys},
    router::router,
    server_name::ServerName,
    x_matrix::Authenticator,
};

/// More header fields than this, or a longer head, is answered with 431 by hyper. The head's limit
/// is that of a buffer which grows by doubling: somewhat more may fit.
const MAX_HEADERS: usize = 64;
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How long to wait when the system has no socket left for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a gateway is to be run. [`Options::new`] has the defaults of the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Our own name: the destination of every request, the origin of every answer.
    pub server_name: ServerName,
    /// Where the history service is: `http://host:port`.
    pub history: Uri,
    /// Whose keys are known beforehand.
    pub keys: PinnedKeys,
    /// How the keys of others are got. `None`: nobody else can be authenticated.
    pub fetching: Option<Fetching>,
    /// The time.
    pub clock: Clock,
    /// How long the history service may take for an answer.
    pub request_timeout: Duration,
    /// How long the head of a request may take, an idle connection's wait for it included.
    pub head_timeout: Duration,
    /// How long the body of a request may take.
    pub body_timeout: Duration,
    /// How long to go on accepting while `/readyz` says that we are stopping.
    pub shutdown_notice: Duration,
    /// How long requests under way may take to finish after that.
    pub drain_timeout: Duration,
}

impl Options {
    /// The defaults, with nobody to authenticate yet.
    #[must_use]
    pub fn new(server_name: ServerName, history: Uri) -> Self {
        Self {
            server_name,
            history,
            keys: PinnedKeys::default(),
            fetching: None,
            clock: Clock::system(),
            request_timeout: Duration::from_secs(30),
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            shutdown_notice: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Serves until `shutdown` is ready, then stops; returns when every connection is closed.
/// Dropped earlier, it closes all connections at once.
///
/// The history service need not be there yet, and a listener that fails to accept is tried again.
pub async fn serve(listener: TcpListener, options: Options, shutdown: impl Future<Output = ()>) {
    let Options { server_name, history, keys, fetching, clock, request_timeout, .. } = options;
    let history = History::new(history, request_timeout);
    let keys = Keys::new(keys, fetching, history.keys(), clock.clone());
    let cx = Arc::new(Context {
        authenticator: Authenticator { server_name, keys, clock },
        history,
        body_timeout: options.body_timeout,
        stopping: AtomicBool::new(false),
    });
    let mut server = Server {
        listener,
        router: router(Arc::clone(&cx)),
        head_timeout: options.head_timeout,
        connections: JoinSet::new(),
        closing: CancellationToken::new(),
    };

    server.accept_until(shutdown).await;
    cx.stopping.store(true, Ordering::Release);
    tracing::info!("stopping: not ready any more");
    server.accept_until(time::sleep(options.shutdown_notice)).await;
    server.drain(options.drain_timeout).await;
}

struct Server {
    listener: TcpListener,
    router: Router,
    head_timeout: Duration,
    connections: JoinSet<()>,
    /// Tells connections to finish what they do and to close.
    closing: CancellationToken,
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
                    Ok((stream, _peer)) => self.spawn(stream),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn spawn(&mut self, stream: TcpStream) {
        // Answers are written whole; waiting for more to send would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.head_timeout)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES);
        let (router, closing) = (self.router.clone(), self.closing.clone());
        self.connections.spawn(connection(http, stream, router, closing));
    }

    async fn drain(self, deadline: Duration) {
        let Self { listener, mut connections, closing, .. } = self;
        drop(listener);
        closing.cancel();
        let drained =
            time::timeout(deadline, async { while connections.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!(connections = connections.len(), "cut off what did not finish in time");
        }
    }
}

async fn connection(
    http: http1::Builder,
    stream: TcpStream,
    router: Router,
    closing: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let asked = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        hyper::service::Service::call(&router, request)
    });
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = &mut serving => outcome,
        () = closing.cancelled() => {
            // hyper would wait for a first request.
            if !asked.load(Ordering::Relaxed) {
                return;
            }
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended");
    }
}

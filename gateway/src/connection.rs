//! One connection: TLS if we have a certificate, then HTTP/1.1, or HTTP/2 if the two agreed on it.
//! Ends well when it is told to, and when it has been of no use for too long.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::Request};
use backscroll_tls::{ServerConfig, TlsAcceptor};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time,
};
use tokio_util::sync::CancellationToken;

use crate::limits::Peer;

/// What is spoken over TLS, the preferred one first.
pub(crate) const ALPN: &[&[u8]] = &[HTTP_2, b"http/1.1"];
const HTTP_2: &[u8] = b"h2";

/// More header fields than this, or a head longer than its limit, is answered with 431 by hyper.
const MAX_HEADERS: usize = 64;

/// Requests at the same time on one connection of HTTP/2.
const MAX_STREAMS: u32 = 32;
/// What one of them, and all of them together, may send before we have read it.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Of answers that the other end does not take.
const SEND_BUFFER: usize = 256 * 1024;
/// A connection of HTTP/2 is told to end after this: it has no bound on how long it may idle.
const MAX_AGE: Duration = Duration::from_mins(10);
/// How long what is then under way may take.
const LAST_REQUESTS: Duration = Duration::from_mins(2);

/// The bounds of HTTP, whichever is spoken.
pub(crate) fn http(head_timeout: Duration, max_head_bytes: usize) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(max_head_bytes);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(max_head_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(head_timeout)
        .keep_alive_timeout(head_timeout);
    http
}

/// What a connection is given.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    pub(crate) router: Router,
    /// For the TLS handshake and for the first request, too.
    pub(crate) head_timeout: Duration,
    /// Tells it to finish what it does and to close.
    pub(crate) closing: CancellationToken,
}

impl Connection {
    /// Returns when it is closed.
    pub(crate) async fn serve(
        self,
        http: auto::Builder<TokioExecutor>,
        stream: TcpStream,
        tls: Option<Arc<ServerConfig>>,
    ) {
        let Some(tls) = tls else { return self.serve_http(http.http1_only(), stream, None).await };
        let accepting = time::timeout(self.head_timeout, TlsAcceptor::from(tls).accept(stream));
        let accepted = tokio::select! {
            accepted = accepting => accepted,
            () = self.closing.cancelled() => return,
        };
        match accepted {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(HTTP_2) => {
                self.serve_http(http.http2_only(), stream, Some(MAX_AGE)).await;
            }
            Ok(Ok(stream)) => self.serve_http(http.http1_only(), stream, None).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
            Err(_elapsed) => tracing::debug!("no TLS in time"),
        }
    }

    async fn serve_http(
        self,
        http: auto::Builder<TokioExecutor>,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        max_age: Option<Duration>,
    ) {
        let Self { peer, router, head_timeout, closing } = self;
        let router = TowerToHyperService::new(router);
        let asked = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&asked);
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            noted.store(true, Ordering::Relaxed);
            hyper::service::Service::call(&router, request)
        });
        let ageing = async {
            // HTTP/1.1 has its own bound on every wait for a request.
            let Some(max_age) = max_age else { return std::future::pending().await };
            time::sleep(head_timeout).await;
            if asked.load(Ordering::Relaxed) {
                time::sleep(max_age).await;
            }
        };
        let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
        let patience = tokio::select! {
            outcome = &mut serving => return log(outcome),
            // Whoever stops us decides how long that may take.
            () = closing.cancelled() => Duration::MAX,
            () = ageing => LAST_REQUESTS,
        };
        // hyper would wait for a first request.
        if asked.load(Ordering::Relaxed) {
            serving.as_mut().graceful_shutdown();
            if let Ok(outcome) = time::timeout(patience, serving).await {
                log(outcome);
            }
        }
    }
}

fn log(outcome: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection ended");
    }
}

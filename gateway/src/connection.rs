//! One connection: the TLS handshake, if there is a certificate, then HTTP/2 or HTTP/1.1, by the
//! first bytes of the client. HTTP/2 in the clear needs no more than its preface.
//!
//! What a connection may occupy is limited: simultaneous streams, heads, buffers, and idle time. An
//! idle connection is closed, and earlier if another client needs its place.

use std::{convert::Infallible, fmt, io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::Request, response::Response};
use hyper::{
    body::Incoming,
    rt::Executor,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{self, Caller},
    client_address::ClientAddress,
    context::Context,
    handshakes::Handshakes,
    limits::{EvictionHandle, LimitOptions, Share, run_stream},
    observe::Quiet,
    outgoing::{self, OutgoingBody},
    wire::{UnreadRequests, Wire},
};

/// Most header fields of a request. Beyond it, or beyond the limit of a head, hyper responds with
/// 431. In HTTP/2 each field counts 32 bytes on top of its own.
const MAX_HEADERS: usize = 64;

/// Most requests under way on one connection. The limit of its address holds as well.
const MAX_STREAMS: u32 = 100;
/// Most streams that the client has reset before the gateway has read their requests. One more
/// closes the connection ("rapid reset", CVE-2023-44487).
const MAX_RESET_STREAMS: usize = 20;
/// Most streams that the gateway has reset because of errors. One more closes the connection.
const MAX_LOCAL_RESETS: usize = 128;
/// How many bytes a stream may send before the gateway has read any.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// hyper asks for the last byte of a response when fewer bytes than this wait to be written.
const SEND_BUFFER: usize = 64 * 1024;
/// How often a connection is checked with a ping.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long the response to a ping may take. Then the connection counts as lost.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves connections: the protocols, and what all connections share.
#[derive(Clone)]
pub(crate) struct Protocols {
    http: auto::Builder<StreamExecutor>,
    tls: Option<Arc<Handshakes>>,
    idle_timeout: Duration,
    cx: Arc<Context>,
    router: Router,
    /// Asks all connections to finish their requests and to close.
    pub(crate) closing: CancellationToken,
}

/// Runs each HTTP/2 stream in a task of its own.
#[derive(Clone, Copy, Debug)]
struct StreamExecutor;

impl<F> Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, work: F) {
        drop(tokio::spawn(run_stream(work)));
    }
}

/// A connection that has been accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) peer: IpAddr,
    pub(crate) share: Arc<Share<ClientAddress>>,
    /// Closes the connection at once.
    pub(crate) close: CancellationToken,
}

impl Protocols {
    pub(crate) fn new(
        tls: Option<Handshakes>,
        options: &LimitOptions,
        cx: Arc<Context>,
        router: Router,
    ) -> Self {
        let mut http = auto::Builder::new(StreamExecutor);
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(options.head_timeout)
            .max_headers(MAX_HEADERS)
            .max_buf_size(options.max_head_bytes);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(options.max_head_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
            .max_local_error_reset_streams(MAX_LOCAL_RESETS)
            .max_send_buf_size(SEND_BUFFER)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        Self {
            http,
            tls: tls.map(Arc::new),
            idle_timeout: options.head_timeout,
            cx,
            router,
            closing: CancellationToken::new(),
        }
    }

    /// Serves a connection until the client closes it, or it has been idle for too long, or it is
    /// evicted, or all connections are to close and its requests have been answered.
    pub(crate) async fn serve(self, accepted: Accepted) {
        let close = accepted.close.clone();
        let peer = accepted.peer;
        let cx = Arc::clone(&self.cx);
        tokio::select! {
            biased;
            () = close.cancelled() => tracing::debug!("closed a connection"),
            ended = self.run(accepted) => if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
                cx.limits.connection_failed(peer);
            },
        }
    }

    async fn run(&self, accepted: Accepted) -> io::Result<()> {
        let Accepted { stream, peer, share, close } = accepted;
        let client = ConnectedClient { peer, share, close };
        let Some(tls) = &self.tls else {
            return Box::pin(self.http(stream, client)).await;
        };
        let stream = tokio::select! {
            stream = tls.accept(&self.cx.limits, stream, peer) => stream?,
            () = self.closing.cancelled() => return Ok(()),
        };
        Box::pin(self.http(stream, client)).await
    }

    async fn http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        client: ConnectedClient,
    ) -> io::Result<()> {
        let unread = UnreadRequests::default();
        let share = Arc::clone(&client.share);
        let stream = Wire::new(stream, share, self.cx.metrics.clone(), unread.clone());
        let under_way = UnderWay::default();
        let mut idle = pin!(under_way.idle_for(self.idle_timeout));
        let service = service_fn(|request: Request<Incoming>| {
            let counted = under_way.count_one();
            let waiting = unread.count_one();
            let client = client.clone();
            let cx = Arc::clone(&self.cx);
            let router = self.router.clone();
            async move {
                drop(waiting);
                respond(cx, router, request, client, counted).await
            }
        });
        let mut serving = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let outcome = tokio::select! {
            outcome = &mut serving => outcome,
            () = self.closing.cancelled() => {
                // A graceful shutdown would wait for a first request.
                if !under_way.had_requests() {
                    return Ok(());
                }
                serving.as_mut().graceful_shutdown();
                serving.await
            }
            () = &mut idle => {
                if !under_way.had_requests() {
                    return Ok(());
                }
                serving.as_mut().graceful_shutdown();
                let Ok(outcome) = time::timeout(self.idle_timeout, serving).await else {
                    return Err(io::ErrorKind::TimedOut.into());
                };
                outcome
            }
        };
        outcome.map_err(io::Error::other)
    }
}

/// Responds to one request. Runs in the task of its HTTP/2 stream.
async fn respond(
    cx: Arc<Context>,
    router: Router,
    mut request: Request<Incoming>,
    client: ConnectedClient,
    counted: CountedRequest,
) -> Result<Response<OutgoingBody>, Infallible> {
    let ConnectedClient { peer, share, close } = client;
    let address = admission::client_address(&cx.limits, peer, request.headers());
    let attempt = Arc::new(cx.limits.attempt(address, peer, close.clone()));
    let caller = Caller {
        address,
        peer,
        connection: share,
        eviction: EvictionHandle::of_request(close),
        attempt: Arc::clone(&attempt),
    };
    let version = request.version();
    request.extensions_mut().insert(caller.clone());
    let response = Service::call(&TowerToHyperService::new(router), request).await?;
    if response.extensions().get::<Quiet>().is_some() {
        attempt.succeeded();
    }
    // A failed attempt counts when its response has been written.
    Ok(outgoing::send(response, &cx.limits, &caller, version, (counted, attempt)))
}

impl fmt::Debug for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protocols").field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
struct ConnectedClient {
    peer: IpAddr,
    share: Arc<Share<ClientAddress>>,
    close: CancellationToken,
}

/// The number of a connection's requests that are being answered; `None` before the first request.
struct UnderWay(Arc<watch::Sender<Option<usize>>>);

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
struct CountedRequest(Arc<watch::Sender<Option<usize>>>);

impl Default for UnderWay {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl UnderWay {
    fn had_requests(&self) -> bool {
        self.0.borrow().is_some()
    }

    fn count_one(&self) -> CountedRequest {
        self.0.send_modify(|count| *count = Some(count.unwrap_or(0) + 1));
        CountedRequest(Arc::clone(&self.0))
    }

    /// Completes when no request has been under way for this time.
    fn idle_for(&self, timeout: Duration) -> impl Future<Output = ()> + use<> {
        let mut count = self.0.subscribe();
        async move {
            loop {
                // The sender lives as long as the connection, which polls this future.
                drop(count.wait_for(|count| count.unwrap_or(0) == 0).await);
                if time::timeout(timeout, count.changed()).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Drop for CountedRequest {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.map(|count| count.saturating_sub(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_under_way_is_idle() {
        let under_way = UnderWay::default();
        assert!(!under_way.had_requests());
        let started = time::Instant::now();
        under_way.idle_for(LONG).await;
        assert_eq!(started.elapsed(), LONG);

        let idle = tokio::spawn(under_way.idle_for(LONG));
        time::sleep(Duration::from_secs(20)).await;
        let (first, second) = (under_way.count_one(), under_way.count_one());
        assert!(under_way.had_requests());
        time::sleep(Duration::from_hours(1)).await;
        drop(first);
        time::sleep(Duration::from_hours(1)).await;
        assert!(!idle.is_finished());
        drop(second);
        let ended = time::Instant::now();
        idle.await.unwrap();
        assert_eq!(ended.elapsed(), LONG);
    }
}

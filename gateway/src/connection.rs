//! One connection: the TLS handshake when we have a certificate, then HTTP/2 or HTTP/1.1,
//! whichever the other end begins with. In the clear too, HTTP/2 needs no more than its preface.
//!
//! What a connection may hold is bounded: streams at once, heads, buffers, and the time during
//! which nothing is asked. A connection that stays idle is closed, sooner if others need its place.

use std::{fmt, io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, rt::Executor, service::service_fn};
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
    context::Context,
    handshakes::Handshakes,
    limits::{Caller, Cut, LimitOptions, Share, run_stream},
    observe::Quiet,
    outgoing,
    wire::{Backlog, Wire},
};

/// More header fields than this, or a head longer than its limit, is answered with 431 by hyper.
/// In HTTP/2 the limit of the head counts 32 bytes for each field on top.
const MAX_HEADERS: usize = 64;

/// Requests under way on one connection. Its address has a limit of its own.
const MAX_STREAMS: u32 = 100;
/// Streams that were reset before we took notice of them; one more ends the connection. What
/// "rapid reset" (CVE-2023-44487) would pile up.
const MAX_RESET_STREAMS: usize = 20;
/// Streams that we had to reset ourselves; one more ends the connection.
const MAX_LOCAL_RESETS: usize = 128;
/// What one stream, and one connection, may send before we have read it.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The last byte of an answer is asked for when less than this waits before it.
const SEND_BUFFER: usize = 64 * 1024;
/// A connection that has lost its other end is noticed after the sum of the two.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How connections are served.
#[derive(Clone)]
pub(crate) struct Protocols {
    http: auto::Builder<StreamExecutor>,
    tls: Option<Arc<Handshakes>>,
    idle_timeout: Duration,
    cx: Arc<Context>,
    router: Router,
    /// Tells connections to finish what they do and to close.
    pub(crate) closing: CancellationToken,
}

/// Runs the answer to each stream of HTTP/2 in a task of its own.
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

/// One that has been accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) peer: IpAddr,
    pub(crate) share: Arc<Share<IpAddr>>,
    /// It has to give way to another.
    pub(crate) cut: CancellationToken,
}

impl Protocols {
    /// `head_timeout` is for the handshake, for the head of a request, and for waiting for one.
    pub(crate) fn new(
        tls: Option<Handshakes>,
        &LimitOptions { head_timeout, max_head_bytes, .. }: &LimitOptions,
        (cx, router): (Arc<Context>, Router),
    ) -> Self {
        let mut http = auto::Builder::new(StreamExecutor);
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .max_headers(MAX_HEADERS)
            .max_buf_size(max_head_bytes);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(max_head_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
            .max_local_error_reset_streams(MAX_LOCAL_RESETS)
            .max_send_buf_size(SEND_BUFFER)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        let tls = tls.map(Arc::new);
        let closing = CancellationToken::new();
        Self { http, tls, idle_timeout: head_timeout, cx, router, closing }
    }

    /// Serves until the other end has had enough, or nothing is asked, or it has to give way, or
    /// all are to close and the requests under way are answered.
    pub(crate) async fn serve(self, accepted: Accepted) {
        let (cut, peer, cx) = (accepted.cut.clone(), accepted.peer, Arc::clone(&self.cx));
        tokio::select! {
            biased;
            () = cut.cancelled() => tracing::debug!("a connection was cut off"),
            ended = self.run(accepted) => if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
                cx.limits.failed(peer);
            },
        }
    }

    async fn run(&self, accepted: Accepted) -> io::Result<()> {
        let Accepted { stream, peer, share, cut } = accepted;
        let (end, attempt) = (Cut::of(cut.clone()), None);
        let caller = Caller { address: peer, connection: share, cut: end, attempt };
        let Some(tls) = &self.tls else {
            return Box::pin(self.http(stream, caller, cut)).await;
        };
        let stream = tokio::select! {
            stream = tls.accept(&self.cx.limits, stream, peer) => stream?,
            () = self.closing.cancelled() => return Ok(()),
        };
        Box::pin(self.http(stream, caller, cut)).await
    }

    async fn http(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        caller: Caller,
        cut: CancellationToken,
    ) -> io::Result<()> {
        let (connection, backlog) = (Arc::clone(&caller.connection), Backlog::default());
        let stream = Wire::new(stream, connection, self.cx.metrics.clone(), backlog.clone());
        let router = TowerToHyperService::new(self.router.clone());
        let under_way = UnderWay::default();
        let mut idle = pin!(under_way.idle_for(self.idle_timeout));
        let service = service_fn(|mut request: Request<Incoming>| {
            let (counted, waiting) = (under_way.one_more(), backlog.one_more());
            let (router, cx) = (router.clone(), Arc::clone(&self.cx));
            let (mut caller, cut) = (caller.clone(), cut.clone());
            async move {
                drop(waiting);
                let peer = caller.address;
                caller.address = cx.limits.address(peer, request.headers());
                let attempt = Arc::new(cx.limits.attempt(caller.address, peer, cut.clone()));
                caller.attempt = Some(Arc::clone(&attempt));
                // Here, since this is what a stream of HTTP/2 runs.
                caller.cut = Cut::of_request(cut);
                let version = request.version();
                request.extensions_mut().insert(caller.clone());
                let response = hyper::service::Service::call(&router, request).await;
                response.map(|it| {
                    if it.extensions().get::<Quiet>().is_some() {
                        attempt.succeeded();
                    }
                    // What counts as a failure does so when its answer has been taken.
                    let held = (counted, attempt);
                    outgoing::send(it, (&cx.limits, &caller, version), held)
                })
            }
        });
        let mut serving = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let outcome = tokio::select! {
            outcome = &mut serving => outcome,
            () = self.closing.cancelled() => {
                // hyper would wait for a first request.
                if !under_way.has_asked() {
                    return Ok(());
                }
                serving.as_mut().graceful_shutdown();
                serving.await
            }
            () = &mut idle => {
                if !under_way.has_asked() {
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

impl fmt::Debug for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protocols").field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// How many requests of a connection are being answered; `None` before the first.
struct UnderWay(Arc<watch::Sender<Option<usize>>>);

/// One of them.
#[derive(Debug)]
struct Counted(Arc<watch::Sender<Option<usize>>>);

impl Default for UnderWay {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl UnderWay {
    fn has_asked(&self) -> bool {
        self.0.borrow().is_some()
    }

    fn one_more(&self) -> Counted {
        self.0.send_modify(|count| *count = Some(count.unwrap_or(0) + 1));
        Counted(Arc::clone(&self.0))
    }

    /// Ready when no request was under way for so long.
    fn idle_for(&self, timeout: Duration) -> impl Future<Output = ()> + use<> {
        let mut count = self.0.subscribe();
        async move {
            loop {
                // The sender is alive for as long as the connection, which polls this.
                drop(count.wait_for(|count| count.unwrap_or(0) == 0).await);
                if time::timeout(timeout, count.changed()).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.map(|count| count.saturating_sub(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn idle_is_what_has_nothing_under_way() {
        let under_way = UnderWay::default();
        assert!(!under_way.has_asked());
        let started = time::Instant::now();
        under_way.idle_for(LONG).await;
        assert_eq!(started.elapsed(), LONG);

        let idle = tokio::spawn(under_way.idle_for(LONG));
        time::sleep(Duration::from_secs(20)).await;
        let (first, second) = (under_way.one_more(), under_way.one_more());
        assert!(under_way.has_asked());
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

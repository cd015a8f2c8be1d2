//! The client of the homeserver: HTTP/1.1 over connections that are used again.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{
        HeaderMap, Method, Request, Uri,
        uri::{Authority, PathAndQuery, Scheme},
    },
};
use backscroll_tls::{ClientConfig, ClientStream, Dialer, Watched};
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{
    sync::Mutex,
    time::{self, Instant},
};

use super::request::{ForwardedHead, ForwardedRequest};
use crate::limits::Limited;

/// Longest time for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection without requests is kept. Homeservers and proxies keep it longer, so that they
/// rarely close it while a request is sent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most connections without requests.
const MAX_IDLE: usize = 32;
/// Largest buffer for a response, which is also the largest head.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// What is asked to find out whether the homeserver answers. Every homeserver has this endpoint.
const VERSION: &str = "/_matrix/federation/v1/version";
/// Longest time for that answer, and how long it is believed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const PROBE_AGE: Duration = Duration::from_secs(1);

/// Why the homeserver has not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HomeserverError {
    #[error("too many requests to the homeserver")]
    Limited(Limited),
    #[error("cannot connect to the homeserver: {0}")]
    Unreachable(String),
    #[error("the homeserver did not answer in time")]
    Slow,
    #[error("the connection to the homeserver broke: {0}")]
    Broken(String),
}

impl HomeserverError {
    /// All causes, as metrics name them.
    pub(super) const CAUSES: [&str; 4] = ["limited", "unreachable", "slow", "broken"];

    /// The name of the cause in metrics: one of [`Self::CAUSES`].
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::Limited(_) => "limited",
            Self::Unreachable(_) => "unreachable",
            Self::Slow => "slow",
            Self::Broken(_) => "broken",
        }
    }
}

/// Sends requests to the homeserver.
pub(crate) struct Homeserver {
    client: Client<HomeserverConnector, Body>,
    scheme: Scheme,
    authority: Authority,
    /// When it was last asked whether it answers, and whether it did.
    probed: Mutex<Option<(Instant, bool)>>,
}

impl Homeserver {
    pub(super) fn new(url: &Uri, tls: Option<Arc<Watched<ClientConfig>>>) -> Self {
        if let Some(tls) = &tls {
            tls.watch();
        }
        let is_tls = url.scheme() == Some(&Scheme::HTTPS);
        let host = url.host().unwrap_or_default().to_owned();
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let connector = HomeserverConnector { dialer: Dialer { tls, host }, port };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(MAX_BUFFER_BYTES)
            .set_host(false)
            .build(connector);
        let authority = url.authority().cloned();
        Self {
            client,
            scheme: if is_tls { Scheme::HTTPS } else { Scheme::HTTP },
            authority: authority.unwrap_or_else(|| Authority::from_static("localhost")),
            probed: Mutex::default(),
        }
    }

    /// Sends a request whose body is received meanwhile. Returns the response when its head has been
    /// received, until `until` at the latest. Dropping the future, or the response, ends the request.
    pub(crate) async fn stream(
        &self,
        head: ForwardedHead,
        body: Body,
        until: Instant,
    ) -> Result<hyper::Response<Incoming>, HomeserverError> {
        let ForwardedHead { method, target, headers } = head;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.uri(target);
        *request.headers_mut() = headers;
        match time::timeout_at(until, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => {
                Err(HomeserverError::Unreachable(causes(&error)))
            }
            Ok(Err(error)) => Err(HomeserverError::Broken(causes(&error))),
            Err(_elapsed) => Err(HomeserverError::Slow),
        }
    }

    /// The same with a body in memory, for requests that change nothing: if the connection breaks
    /// before the head of the response, the request is sent once more.
    pub(crate) async fn ask(
        &self,
        request: ForwardedRequest,
        until: Instant,
    ) -> Result<hyper::Response<Incoming>, HomeserverError> {
        let ForwardedRequest { head, body } = request;
        match self.stream(head.clone(), body.clone().into(), until).await {
            Err(HomeserverError::Broken(_)) => self.stream(head, body.into(), until).await,
            answer => answer,
        }
    }

    /// Whether the homeserver answers with anything but a 5xx. It is asked once a second at most.
    pub(crate) async fn is_answering(&self) -> bool {
        let mut probed = self.probed.lock().await;
        if let Some((at, is_answering)) = *probed
            && at.elapsed() < PROBE_AGE
        {
            return is_answering;
        }
        let mut headers = HeaderMap::new();
        if let Ok(host) = self.authority.as_str().parse() {
            headers.insert(axum::http::header::HOST, host);
        }
        let target = PathAndQuery::from_static(VERSION);
        let head = ForwardedHead { method: Method::GET, target, headers };
        let answer = self.stream(head, Body::empty(), Instant::now() + PROBE_TIMEOUT).await;
        let is_answering = answer.is_ok_and(|it| !it.status().is_server_error());
        *probed = Some((Instant::now(), is_answering));
        is_answering
    }

    fn uri(&self, target: PathAndQuery) -> Uri {
        let builder = Uri::builder().scheme(self.scheme.clone());
        let builder = builder.authority(self.authority.clone()).path_and_query(target);
        builder.build().expect("all three parts are there")
    }
}

/// The texts of an error and of its causes.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl fmt::Debug for Homeserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Homeserver").field("authority", &self.authority).finish_non_exhaustive()
    }
}

/// Connects to the homeserver.
#[derive(Clone, Debug)]
struct HomeserverConnector {
    dialer: Dialer,
    port: u16,
}

impl tower::Service<Uri> for HomeserverConnector {
    type Response = HomeserverStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<HomeserverStream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { dialer, port } = self.clone();
        Box::pin(async move {
            let host = dialer.host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let dialing = dialer.dial((host, port));
            Ok(HomeserverStream(time::timeout(CONNECT_TIMEOUT, dialing).await??))
        })
    }
}

/// A connection to the homeserver.
struct HomeserverStream(TokioIo<ClientStream>);

impl Connection for HomeserverStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for HomeserverStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for HomeserverStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, pieces)
    }
}

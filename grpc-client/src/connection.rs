//! The shared connection: opened when a call needs one, watched, and forgotten when it breaks.

use std::{
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{Request, Uri};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time,
};
use tonic::Status;

/// How many bytes of a response the server may send before the client has read any. A response of
/// the usual size fits, so that it is sent without a pause; a larger one waits for memory.
pub const STREAM_WINDOW: u32 = 256 << 10;
/// The same for all responses on the connection together.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Largest head or trailers of a response.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// How long opening the connection may take, the TLS handshake included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an open connection is checked with a ping.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long the response to a ping may take. Then the connection counts as lost.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens the byte stream below a connection.
pub trait Connect: Send + Sync {
    /// The byte stream, in the clear or encrypted.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Connects to the server.
    fn connect(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// A connection to one server, shared by all calls to it. Opens itself again when it is lost.
#[derive(Debug)]
pub struct Connection<C> {
    service: Uri,
    connect: C,
    open: Mutex<Option<OpenConnection>>,
    opened: AtomicU64,
    /// Held while the connection is being opened, so that other calls wait for the same one.
    opening: tokio::sync::Mutex<()>,
}

/// An open connection. The number tells it apart from those opened before.
#[derive(Clone, Debug)]
struct OpenConnection {
    number: u64,
    streams: SendRequest<Bytes>,
}

impl<C: Connect> Connection<C> {
    /// Creates a connection that is not open yet. Scheme and authority of the service's URL are
    /// sent with each request; its path is ignored.
    pub fn new(service: Uri, connect: C) -> Self {
        Self {
            service,
            connect,
            open: Mutex::default(),
            opened: AtomicU64::new(0),
            opening: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn service(&self) -> &Uri {
        &self.service
    }

    /// Starts a stream by sending the head of a request. Where the connection turns out to be lost
    /// or closing, another one is opened, once: nothing of the request has been sent on the first.
    pub(crate) async fn start_stream(
        &self,
        request: &Request<()>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Status> {
        if let Some(mut open) = self.current() {
            match open.streams.send_request(request.clone(), false) {
                Ok(started) => return Ok(started),
                Err(error) => {
                    tracing::debug!(%error, service = %self.service, "opening the connection again");
                    self.forget(open.number);
                }
            }
        }
        let mut open = self.open().await?;
        open.streams.send_request(request.clone(), false).map_err(|error| {
            self.forget(open.number);
            stream_error(error)
        })
    }

    fn current(&self) -> Option<OpenConnection> {
        self.lock_open().clone()
    }

    fn forget(&self, number: u64) {
        let mut open = self.lock_open();
        if open.as_ref().is_some_and(|it| it.number == number) {
            *open = None;
        }
    }

    fn lock_open(&self) -> MutexGuard<'_, Option<OpenConnection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the connection, or returns the one that another call has opened meanwhile.
    async fn open(&self) -> Result<OpenConnection, Status> {
        let _one_at_a_time = self.opening.lock().await;
        if let Some(open) = self.current() {
            return Ok(open);
        }
        let unavailable = |why: String| Status::unavailable(format!("cannot connect: {why}"));
        let handshake = async {
            let stream = self.connect.connect().await.map_err(|it| unavailable(it.to_string()))?;
            let handshake = Builder::new()
                .enable_push(false)
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(MAX_HEADER_BYTES)
                .handshake(stream)
                .await;
            handshake.map_err(|it| unavailable(it.to_string()))
        };
        let connected = time::timeout(CONNECT_TIMEOUT, handshake).await;
        let (streams, mut connection) =
            connected.map_err(|_elapsed| unavailable("timed out".to_owned()))??;
        let ping_pong = connection.ping_pong();
        let service = self.service.clone();
        // The task ends when neither a stream nor `OpenConnection` is left.
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, %service, "a connection ended");
                },
                () = lost(ping_pong) => {
                    tracing::debug!(%service, "closed a connection: no response to a ping");
                }
            }
        });
        let open = OpenConnection { number: self.opened.fetch_add(1, Ordering::Relaxed), streams };
        *self.lock_open() = Some(open.clone());
        Ok(open)
    }
}

/// Completes when the server has left a ping without a response.
async fn lost(ping_pong: Option<PingPong>) {
    let Some(mut ping_pong) = ping_pong else { return std::future::pending().await };
    loop {
        time::sleep(KEEP_ALIVE_INTERVAL).await;
        let pong = time::timeout(KEEP_ALIVE_TIMEOUT, ping_pong.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return;
        }
    }
}

/// The status of a call whose stream failed. A connection that broke during the call has no status
/// of its own: it is UNAVAILABLE, so that the call may be repeated.
pub(crate) fn stream_error(error: h2::Error) -> Status {
    if error.is_io() || error.is_go_away() || error.reason().is_none() {
        return Status::unavailable("the connection broke");
    }
    Status::from_error(Box::new(error))
}

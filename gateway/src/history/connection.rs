//! A connection to a history service: HTTP/2, opened when it is first needed, and again when it
//! has broken. Any number of calls share it.
//!
//! Straight on top of `h2`: a question is put into a stream by whoever asks, and read by the one
//! task that has the socket. tonic's channel has four tasks between the two, each of which is
//! woken for every question and most of them for every answer.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{body::Bytes, http::Request};
use backscroll_tls::Dialer;
use h2::{
    Ping, PingPong, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use tokio::time;
use tonic::Status;

use crate::limits::Room;

/// What may be under way at once: a whole answer of the usual size, so that it need not wait for
/// permission to go on, while larger ones wait for memory; and many of them on the connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// The head of an answer, or the status at its end.
const MAX_HEAD_BYTES: u32 = 16 << 10;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that has lost its other end is noticed after the sum of the two.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// One.
#[derive(Debug)]
pub(super) struct Connection {
    address: SocketAddr,
    dialer: Dialer,
    /// For the answers that come on it.
    pub(super) room: Arc<Room>,
    open: Mutex<Option<Open>>,
    opened: AtomicU64,
    /// Who finds no open one opens it, and the others wait for that.
    opening: tokio::sync::Mutex<()>,
}

/// An open one, told apart from those before it.
#[derive(Clone, Debug)]
struct Open {
    nth: u64,
    streams: SendRequest<Bytes>,
}

impl Connection {
    /// Opens nothing yet.
    pub(super) fn new(address: SocketAddr, dialer: Dialer, room: Arc<Room>) -> Self {
        let (open, opened, opening) = Default::default();
        Self { address, dialer, room, open, opened, opening }
    }

    /// Sends the head of a request, whose body is to follow.
    pub(super) async fn begin(
        &self,
        request: &Request<()>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Status> {
        // What breaks is noticed here; so is what the other end wants no more requests on.
        if let Some(mut open) = self.current() {
            match open.streams.send_request(request.clone(), false) {
                Ok(begun) => return Ok(begun),
                Err(error) => {
                    tracing::debug!(%error, address = %self.address, "connecting again");
                    self.forget(open.nth);
                }
            }
        }
        let mut open = self.open().await?;
        open.streams.send_request(request.clone(), false).map_err(|error| {
            self.forget(open.nth);
            broke(error)
        })
    }

    fn current(&self) -> Option<Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn forget(&self, nth: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|it| it.nth == nth) {
            *open = None;
        }
    }

    async fn open(&self) -> Result<Open, Status> {
        let _one_at_a_time = self.opening.lock().await;
        if let Some(open) = self.current() {
            return Ok(open);
        }
        let away = |why: String| Status::unavailable(format!("cannot connect: {why}"));
        let connecting = async {
            let stream = self.dialer.dial(self.address).await.map_err(|it| away(it.to_string()))?;
            let handshake = Builder::new()
                .enable_push(false)
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(MAX_HEAD_BYTES)
                .handshake(stream.into_inner())
                .await;
            handshake.map_err(|it| away(it.to_string()))
        };
        let connected = time::timeout(CONNECT_TIMEOUT, connecting).await;
        let (streams, mut connection) = connected.map_err(|_| away("timed out".to_owned()))??;
        let (ping_pong, address) = (connection.ping_pong(), self.address);
        // Ends when nobody has a stream of it or could open one.
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, %address, "a connection ended");
                },
                () = is_lost(ping_pong) => {
                    tracing::debug!(%address, "cut off a connection that lost its other end");
                }
            }
        });
        let open = Open { nth: self.opened.fetch_add(1, Ordering::Relaxed), streams };
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(open.clone());
        Ok(open)
    }
}

/// Ready when the other end does not answer any more.
async fn is_lost(ping_pong: Option<PingPong>) {
    let Some(mut ping_pong) = ping_pong else { return std::future::pending().await };
    loop {
        time::sleep(KEEP_ALIVE_INTERVAL).await;
        let answered = time::timeout(KEEP_ALIVE_TIMEOUT, ping_pong.ping(Ping::opaque())).await;
        if !matches!(answered, Ok(Ok(_))) {
            return;
        }
    }
}

/// What came of a call whose stream ended before its time. A connection that broke in the middle,
/// as when the service is stopped, has no code of its own: whoever asked may ask again.
pub(super) fn broke(error: h2::Error) -> Status {
    if error.is_io() || error.is_go_away() || error.reason().is_none() {
        return Status::unavailable("the connection broke");
    }
    Status::from_error(Box::new(error))
}

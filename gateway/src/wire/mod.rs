//! The bytes that come on a connection, looked at before hyper has them: what is refused here is
//! what hyper takes without end, or hides. Nothing is parsed that hyper parses better.
//!
//! - HTTP/1.1: heads with a length beside a transfer coding ([`heads`]).
//! - HTTP/2: frames that ask for nothing ([`frames`]).
//! - Both: how much there is of a head that has not come whole, which counts as a stranger's; and
//!   nothing is read while several requests of the same connection have not been looked at.

mod frames;
mod heads;

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{self, Sleep},
};

use self::{frames::Frames, heads::Heads};
use crate::{
    limits::{CONTROL_FRAMES, Share},
    metrics::Metrics,
};

/// What an HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Heads are counted in steps of this size: those that come in one piece are none of them.
const STEP_BYTES: usize = 4 * 1024;
/// Requests of one connection that nobody has looked at: with more, nothing is read for a while.
const MAX_BACKLOG: usize = 8;
const PAUSE: Duration = Duration::from_millis(1);

/// A connection's socket, or what TLS makes of it.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    socket: S,
    protocol: Protocol,
    /// Counts what there is of a head.
    connection: Arc<Share<IpAddr>>,
    counted: usize,
    metrics: Metrics,
    backlog: Backlog,
    pause: Option<Pin<Box<Sleep>>>,
}

/// How many requests of a connection have been read that nobody has looked at yet. There may be
/// memory for them, but hardly time: reading more would make those of others wait longer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backlog(Arc<AtomicUsize>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Waiting(Backlog);

impl Backlog {
    pub(crate) fn one_more(&self) -> Waiting {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waiting(self.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum Protocol {
    /// So many bytes of the preface have come, and nothing else.
    Unknown(usize),
    Http1(Heads),
    Http2(Frames),
}

impl<S> Wire<S> {
    pub(crate) fn new(
        socket: S,
        connection: Arc<Share<IpAddr>>,
        metrics: Metrics,
        backlog: Backlog,
    ) -> Self {
        let (protocol, counted, pause) = (Protocol::Unknown(0), 0, None);
        Self { socket, protocol, connection, counted, metrics, backlog, pause }
    }

    /// Ready when there are few requests that nobody has looked at.
    fn poll_backlog(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.backlog.0.load(Ordering::Relaxed) > MAX_BACKLOG {
            let pause = self.pause.get_or_insert_with(|| Box::pin(time::sleep(PAUSE)));
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }

    /// Looks at what has come. May change it to what hyper refuses.
    fn look_at(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
        if let Protocol::Unknown(matched) = &mut self.protocol {
            let expected = PREFACE.get(*matched..).unwrap_or_default();
            let same = bytes.iter().zip(expected).take_while(|(a, b)| a == b).count();
            *matched += same;
            if *matched == PREFACE.len() {
                self.protocol = Protocol::Http2(Frames::new());
                bytes = bytes.get_mut(same..).unwrap_or_default();
            } else if same < bytes.len() {
                let mut heads = Heads::default();
                let before = *matched - same;
                heads.look_at(&mut PREFACE.get(..before).unwrap_or_default().to_vec());
                self.protocol = Protocol::Http1(heads);
            }
        }
        let of_head = match &mut self.protocol {
            Protocol::Unknown(matched) => *matched,
            Protocol::Http1(heads) => heads.look_at(bytes),
            Protocol::Http2(frames) => frames.look_at(bytes).map_err(|frames::TooMany| {
                self.metrics.limited(CONTROL_FRAMES);
                io::Error::other("too many frames that ask for nothing")
            })?,
        };
        self.count(of_head)
    }

    fn count(&mut self, of_head: usize) -> io::Result<()> {
        if of_head < self.counted {
            self.connection.empty();
            self.counted = 0;
        }
        if of_head >= self.counted + STEP_BYTES {
            let full = |_| io::Error::other("no room for the head of a request");
            self.connection.grow(of_head - self.counted).map_err(full)?;
            self.counted = of_head;
        }
        Ok(())
    }

    /// Bytes were written: whoever gets answers may say so.
    fn wrote(&mut self, bytes: usize) {
        if let Protocol::Http2(frames) = &mut self.protocol {
            frames.wrote(bytes);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_backlog(cx));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        let new = buffer.filled_mut().get_mut(before..).unwrap_or_default();
        Poll::Ready(self.look_at(new))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes))?;
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, bytes))?;
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

//! The bytes of a connection, inspected before hyper reads them. Refused here is what hyper accepts
//! without limit, or hides. Everything else is left to hyper.
//!
//! - HTTP/1.1: heads with a length beside a transfer coding ([`heads`]).
//! - HTTP/2: floods of frames that are not part of a request ([`frames`]).
//! - Both: the bytes of an incomplete head count as those of an unauthenticated client, and nothing
//!   is read while several requests of the connection wait to be handled.

mod frames;
mod heads;

use std::{
    io,
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
    client_address::ClientAddress, limiter::evicting::CONTROL_FRAMES, limits::Share,
    metrics::Metrics,
};

/// The first bytes of an HTTP/2 connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Incomplete heads are counted in steps of this size. A head that is received in one piece is not
/// counted at all.
const STEP_BYTES: usize = 4 * 1024;
/// Most requests of a connection that were read and are not handled yet. Beyond it, reading pauses.
const MAX_UNREAD_REQUESTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(1);

/// The stream of a connection, in the clear or decrypted, whose bytes are inspected.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    stream: S,
    protocol: Protocol,
    /// Counts the bytes of an incomplete head.
    share: Arc<Share<ClientAddress>>,
    counted_bytes: usize,
    metrics: Metrics,
    unread: UnreadRequests,
    pause: Option<Pin<Box<Sleep>>>,
}

/// The number of a connection's requests that were read and are not handled yet. There is memory for
/// more, but reading them would delay those of other connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnreadRequests(Arc<AtomicUsize>);

/// Counts as an unread request until it is dropped.
#[derive(Debug)]
pub(crate) struct UnreadGuard(UnreadRequests);

impl UnreadRequests {
    pub(crate) fn count_one(&self) -> UnreadGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        UnreadGuard(self.clone())
    }
}

impl Drop for UnreadGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The protocol of a connection, and what was inspected of it.
#[derive(Debug)]
enum Protocol {
    /// Only this many bytes were received, and they are the beginning of the preface.
    Unknown(usize),
    Http1(Heads),
    Http2(Frames),
}

impl<S> Wire<S> {
    pub(crate) fn new(
        stream: S,
        share: Arc<Share<ClientAddress>>,
        metrics: Metrics,
        unread: UnreadRequests,
    ) -> Self {
        let protocol = Protocol::Unknown(0);
        Self { stream, protocol, share, counted_bytes: 0, metrics, unread, pause: None }
    }

    /// Completes when few requests wait to be handled.
    fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.unread.0.load(Ordering::Relaxed) > MAX_UNREAD_REQUESTS {
            let pause = self.pause.get_or_insert_with(|| Box::pin(time::sleep(PAUSE)));
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }

    /// Inspects received bytes. May change them to something that hyper refuses.
    fn inspect(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
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
                heads.inspect(&mut PREFACE.get(..before).unwrap_or_default().to_vec());
                self.protocol = Protocol::Http1(heads);
            }
        }
        let incomplete = match &mut self.protocol {
            Protocol::Unknown(matched) => *matched,
            Protocol::Http1(heads) => heads.inspect(bytes),
            Protocol::Http2(frames) => frames.inspect(bytes).map_err(|frames::Flood| {
                self.metrics.limited(CONTROL_FRAMES);
                io::Error::other("too many frames that are not part of a request")
            })?,
        };
        self.count(incomplete)
    }

    /// Counts the bytes of an incomplete head.
    fn count(&mut self, incomplete: usize) -> io::Result<()> {
        if incomplete < self.counted_bytes {
            self.share.clear_bytes();
            self.counted_bytes = 0;
        }
        if incomplete >= self.counted_bytes + STEP_BYTES {
            let full = |_| io::Error::other("no memory for the head of a request");
            self.share.grow(incomplete - self.counted_bytes).map_err(full)?;
            self.counted_bytes = incomplete;
        }
        Ok(())
    }

    /// Notes written bytes: a client that receives responses may send control frames about them.
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
        ready!(self.poll_unread(cx));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let new = buffer.filled_mut().get_mut(before..).unwrap_or_default();
        Poll::Ready(self.inspect(new))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bytes))?;
        self.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! TLS connections that end without the closing alert of TLS.
//!
//! Many servers close their connections without it. It is the end of a response without
//! `Content-Length`, which other implementations accept; a truncated response is not valid JSON anyway.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that treats an unexpected end as a normal one.
#[derive(Debug)]
pub(super) struct EndsQuietly<S>(pub(super) S);

impl<S: AsyncRead + Unpin> AsyncRead for EndsQuietly<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(match ready!(Pin::new(&mut self.0).poll_read(cx, buffer)) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
            other => other,
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for EndsQuietly<S> {
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
}

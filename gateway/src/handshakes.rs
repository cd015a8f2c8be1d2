//! TLS handshakes, on a thread of their own with a low priority: anybody may begin one, and each
//! costs as much as several answers. There are so many at once; beyond that the oldest of the
//! address that has most gives way.

use std::{
    io,
    net::{self, IpAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use backscroll_tls::{ServerConfig, TlsAcceptor, Watched};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    context,
    limits::{Cut, Full},
    workers::Aside,
};

/// Makes TLS of connections.
#[derive(Debug)]
pub(crate) struct Handshakes {
    config: Arc<Watched<ServerConfig>>,
    aside: Aside,
    timeout: Duration,
}

impl Handshakes {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has none left.
    pub(crate) fn start(config: Arc<Watched<ServerConfig>>, timeout: Duration) -> io::Result<Self> {
        Ok(Self { config, aside: Aside::start("handshakes")?, timeout })
    }

    /// Shakes hands, and leaves the socket to the runtime that this is called on.
    ///
    /// # Errors
    /// When there is no room for it, or the other end does not know how to, or takes too long.
    pub(crate) async fn shake(
        &self,
        cx: &context::Context,
        socket: net::TcpStream,
        peer: IpAddr,
    ) -> io::Result<TlsStream<Socket>> {
        let cut = CancellationToken::new();
        let share = cx.limits.handshake(peer, Cut::of(cut.clone()));
        let share = share.map_err(|Full| io::Error::other("no room for a handshake"))?;
        let (acceptor, timeout) = (TlsAcceptor::from(self.config.get()), self.timeout);
        let shaking = self.aside.runtime().spawn(async move {
            let _share = share;
            let handshake = acceptor.accept(Socket::new(socket)?);
            tokio::select! {
                shaken = time::timeout(timeout, handshake) => shaken?,
                () = cut.cancelled() => Err(io::Error::other("gave way to another handshake")),
            }
        });
        let mut stream = AbortOnDropHandle::new(shaking).await??;
        stream.get_mut().0.come_here()?;
        Ok(stream)
    }
}

/// A socket that can change to another runtime, which is then the one to wake when something comes.
#[derive(Debug)]
pub(crate) struct Socket(Option<TcpStream>);

impl Socket {
    fn new(socket: net::TcpStream) -> io::Result<Self> {
        Ok(Self(Some(TcpStream::from_std(socket)?)))
    }

    /// Changes to the runtime that this is called on.
    fn come_here(&mut self) -> io::Result<()> {
        if let Some(socket) = self.0.take() {
            self.0 = Some(TcpStream::from_std(socket.into_std()?)?);
        }
        Ok(())
    }

    /// There is none once it could not change.
    fn socket(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.0.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.socket()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket()?.poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_shutdown(cx)
    }
}

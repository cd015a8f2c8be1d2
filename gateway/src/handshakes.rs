//! TLS handshakes, on a thread of their own with a low priority: any client can begin one, and each
//! costs as much processor time as several answers. Their number is limited. Beyond the limit, the
//! oldest handshake of the address with the most handshakes is evicted.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Duration,
};

use backscroll_tls::{ServerConfig, TlsAcceptor, Watched};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    runtime::{Builder, Handle},
    time,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use crate::limits::{EvictionHandle, Full, Limits};

/// Priority of the thread, on the scheduler's scale from -20 to 19. With 10 it gets about a tenth of
/// the processor time of any other thread, while all threads are busy.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Performs the TLS handshakes of new connections.
#[derive(Debug)]
pub(crate) struct Handshakes {
    config: Arc<Watched<ServerConfig>>,
    thread: LowPriorityThread,
    timeout: Duration,
}

impl Handshakes {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system cannot start another thread.
    pub(crate) fn start(config: Arc<Watched<ServerConfig>>, timeout: Duration) -> io::Result<Self> {
        Ok(Self { config, thread: LowPriorityThread::start("handshakes")?, timeout })
    }

    /// Performs a handshake on the thread. The encrypted stream then belongs to the runtime of the
    /// caller.
    ///
    /// # Errors
    /// When the limit of handshakes is reached, or the handshake fails or takes too long.
    pub(crate) async fn accept(
        &self,
        limits: &Limits,
        stream: TcpStream,
        peer: IpAddr,
    ) -> io::Result<TlsStream<MovableStream>> {
        let evicted = CancellationToken::new();
        let share = limits.handshake(peer, EvictionHandle::new(evicted.clone()));
        let share = share.map_err(|Full| io::Error::other("too many TLS handshakes"))?;
        let acceptor = TlsAcceptor::from(self.config.get());
        let timeout = self.timeout;
        let mut stream = MovableStream(Some(stream));
        let handshake = self.thread.runtime.spawn(async move {
            let _share = share;
            stream.move_here()?;
            tokio::select! {
                accepted = time::timeout(timeout, acceptor.accept(stream)) => accepted?,
                () = evicted.cancelled() => Err(io::Error::other("evicted for another TLS handshake")),
            }
        });
        let mut stream = AbortOnDropHandle::new(handshake).await??;
        stream.get_mut().0.move_here()?;
        Ok(stream)
    }
}

/// A thread of low priority with a runtime of its own. Ends when this is dropped.
#[derive(Debug)]
struct LowPriorityThread {
    runtime: Handle,
    _end: DropGuard,
}

impl LowPriorityThread {
    fn start(name: &str) -> io::Result<Self> {
        let end = CancellationToken::new();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let ended = end.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            lower_priority();
            runtime.block_on(ended.cancelled());
        })?;
        Ok(Self { runtime: handle, _end: end.drop_guard() })
    }
}

/// Lowers the priority of the current thread. Only Linux has a priority for each thread; elsewhere
/// nothing is changed.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "cannot lower the priority of a thread");
    }
}

/// A stream that can be moved to another runtime, whose reactor then wakes its readers and writers.
/// `None` after a move has failed.
#[derive(Debug)]
pub(crate) struct MovableStream(Option<TcpStream>);

impl MovableStream {
    /// Moves the stream to the runtime of the caller.
    fn move_here(&mut self) -> io::Result<()> {
        if let Some(socket) = self.0.take() {
            self.0 = Some(TcpStream::from_std(socket.into_std()?)?);
        }
        Ok(())
    }

    fn socket(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.0.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for MovableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.socket()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for MovableStream {
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

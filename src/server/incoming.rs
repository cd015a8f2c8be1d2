//! Accepts connections with TLS. Handshakes run concurrently and have a time limit.

use std::{io, sync::Arc, time::Duration};

use backscroll_tls::{ServerConfig, TlsAcceptor, TlsStream, Watched};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};

/// The time limit of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most handshakes at the same time; further connections wait to be accepted.
const MAX_HANDSHAKES: usize = 256;
/// The pause after a failed accept, such as when the system has no socket left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts the connections of a listener. Each uses the certificate that is current when it is
/// accepted. Stops when the result is dropped.
pub(super) fn with_tls(
    listener: TcpListener,
    config: Arc<Watched<ServerConfig>>,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (ready, incoming) = mpsc::channel(1);
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    tokio::spawn(async move {
        loop {
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = ready.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let acceptor = TlsAcceptor::from(config.get());
            let ready = ready.clone();
            tokio::spawn(async move {
                let _permit = permit;
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "cannot set TCP_NODELAY");
                }
                match time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                    // Sending fails only while the service stops.
                    Ok(Ok(stream)) => drop(ready.send(Ok(stream)).await),
                    Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
                    Err(_) => debug!("a TLS handshake took too long"),
                }
            });
        }
    });
    ReceiverStream::new(incoming)
}

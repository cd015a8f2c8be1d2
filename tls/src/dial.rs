//! Opens client connections, in the clear or with TLS.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpStream, ToSocketAddrs},
    time,
};
use tokio_rustls::{
    TlsConnector, client,
    rustls::{ClientConfig, pki_types::ServerName},
};
use tokio_util::either::Either;

use crate::Watched;

/// Longest time for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected stream, in the clear or encrypted.
pub type ClientStream = Either<TcpStream, client::TlsStream<TcpStream>>;

/// Opens connections to a server, and checks its certificate.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// The TLS configuration. `None`: connect in the clear.
    pub tls: Option<Arc<Watched<ClientConfig>>>,
    /// The name that the certificate must be for: a host name or an address, without a port.
    pub host: String,
}

impl Dialer {
    /// Connects to an address of the server. The stream is wrapped as tonic and hyper need it.
    ///
    /// # Errors
    /// When the connection or the TLS handshake fails, or the certificate is not valid for the host.
    pub async fn dial(&self, address: impl ToSocketAddrs) -> io::Result<TokioIo<ClientStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(TokioIo::new(Either::Left(stream))) };
        let host = self.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let host = ServerName::try_from(host).map_err(io::Error::other)?;
        let connector = TlsConnector::from(tls.get());
        let stream = time::timeout(HANDSHAKE_TIMEOUT, connector.connect(host, stream)).await??;
        Ok(TokioIo::new(Either::Right(stream)))
    }
}

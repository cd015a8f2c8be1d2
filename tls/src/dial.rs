//! Opening a connection, in the clear or with TLS, as tonic's channels take it.

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

/// How long the TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected stream, in the clear or encrypted.
pub type ClientStream = Either<TcpStream, client::TlsStream<TcpStream>>;

/// Opens connections to a server of some name.
#[derive(Clone, Debug)]
pub struct Dialer {
    /// With which the server is met; in the clear without.
    pub tls: Option<Arc<Watched<ClientConfig>>>,
    /// What its certificate must be for: a host name or an address, without a port.
    pub host: String,
}

impl Dialer {
    /// Connects to an address of the server.
    ///
    /// # Errors
    /// When that fails, or the server cannot show that it is the one.
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

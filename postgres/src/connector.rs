//! Opens connections to the server, of several, that takes writes.

use std::{
    error::Error,
    io,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::time::timeout;
use tokio_postgres::{Client, Config, error::SqlState};

use crate::{Address, Host, Tls, read_secret};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A server cannot be reached, or has refused the connection.
    #[error("{host}: {}", said(source))]
    Refused {
        /// The server.
        host: Host,
        /// What it said.
        source: tokio_postgres::Error,
    },
    /// A server did not answer in time.
    #[error("{host} did not answer in time")]
    TooLate {
        /// The server.
        host: Host,
    },
    /// The file with the password cannot be read.
    #[error("the password cannot be read: {0}")]
    Password(String),
    /// The file with the certificate authority cannot be used.
    #[error("sslrootcert: {0}")]
    Authority(String),
}

/// Opens connections to a database. Of several hosts it takes the one that took the last connection, or
/// the next that takes writes.
pub struct Connector {
    servers: Vec<Server>,
    password: Password,
    tls: Tls,
    /// The position of the host that took the last connection.
    last: AtomicUsize,
}

struct Server {
    host: Host,
    config: Config,
}

enum Password {
    /// There is none, or it is in the configurations.
    Known,
    /// It is read anew for each connection.
    File(PathBuf),
}

impl Connector {
    /// Reads the certificate authority, if the address names one.
    ///
    /// # Errors
    /// When that file cannot be used.
    pub fn new(address: &Address) -> Result<Self, ConnectError> {
        let tls = Tls::new(address.authority.as_deref());
        let tls = tls.map_err(|error| ConnectError::Authority(format!("{error:#}")))?;
        let server = |host: &Host| {
            let mut config = address.config(host);
            if let Some(password) = &address.password {
                config.password(password);
            }
            Server { host: host.clone(), config }
        };
        let servers = address.hosts.iter().map(server).collect();
        let password = address.password_file.clone().map_or(Password::Known, Password::File);
        Ok(Self { servers, password, tls, last: AtomicUsize::new(0) })
    }

    /// Opens a connection to the server that takes writes. It ends when the client is dropped. Must be
    /// called within a runtime.
    ///
    /// # Errors
    /// When no server that takes writes answers, or when it refuses the role.
    pub async fn connect(&self) -> Result<Client, ConnectError> {
        let password = match &self.password {
            Password::Known => None,
            Password::File(path) => {
                let password = read_secret(path);
                Some(password.map_err(|it| ConnectError::Password(format!("{it:#}")))?)
            }
        };
        let first = self.last.load(Ordering::Relaxed);
        let mut failure: Option<ConnectError> = None;
        let from_last = self.servers.iter().enumerate().cycle().skip(first);
        for (position, server) in from_last.take(self.servers.len()) {
            match server.connect(password.as_deref(), &self.tls).await {
                Ok(client) => {
                    self.last.store(position, Ordering::Relaxed);
                    return Ok(client);
                }
                // What a server said tells more than that another cannot be reached.
                Err(refused) if failure.as_ref().is_none_or(|it| !it.is_from_server()) => {
                    failure = Some(refused);
                }
                Err(_) => {}
            }
        }
        Err(failure.unwrap_or_else(|| ConnectError::Password("there is no host".to_owned())))
    }
}

impl Server {
    async fn connect(&self, password: Option<&str>, tls: &Tls) -> Result<Client, ConnectError> {
        let mut config = self.config.clone();
        if let Some(password) = password {
            config.password(password);
        }
        let bound = config.get_connect_timeout().copied().unwrap_or_default();
        let host = || self.host.clone();
        let connected = timeout(bound, config.connect(tls.clone())).await;
        let connected = connected.map_err(|_| ConnectError::TooLate { host: host() })?;
        let (client, connection) =
            connected.map_err(|source| ConnectError::Refused { host: host(), source })?;
        // It ends when the client is dropped. Its error is that of the statement under way.
        drop(tokio::spawn(connection));
        Ok(client)
    }
}

impl ConnectError {
    /// Whether a server has answered, and refused the connection.
    #[must_use]
    pub fn is_from_server(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.as_db_error().is_some())
    }

    /// Whether no later attempt helps before somebody changes the role, the password, a certificate, or
    /// what the server accepts.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { source, .. } => match source.as_db_error() {
                Some(said) => is_refusal(said.code()),
                None => is_of_tls(source),
            },
            Self::TooLate { .. } => false,
            Self::Password(_) | Self::Authority(_) => true,
        }
    }
}

/// Whether the server refuses the role, or has no such database.
fn is_refusal(code: &SqlState) -> bool {
    [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ]
    .contains(code)
}

/// Whether the certificate of the server was refused, the server has no TLS, or a password is missing.
fn is_of_tls(error: &tokio_postgres::Error) -> bool {
    let Some(cause) = error.source() else { return false };
    match cause.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>),
        None => !cause.is::<tokio_postgres::error::DbError>(),
    }
}

/// What a server said, or why it could not be reached.
fn said(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return said.message().to_owned();
    }
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

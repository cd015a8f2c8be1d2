//! Where a database is.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use tokio_postgres::{
    Config,
    config::{SslMode, TargetSessionAttrs},
};

use crate::{AddressError, notice_lost_servers, parse};

/// How long a connection to one host may take, if the URL does not say.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection over which sent data is not received for this time is lost.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// Where a database is, and how to connect to it. It is parsed from a URL such as
/// `postgres://backscroll@db1.example.org,db2.example.org/backscroll?password_file=/run/secrets/db`.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub(crate) user: String,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) password_file: Option<PathBuf>,
    /// Never empty.
    pub(crate) hosts: Vec<Host>,
    pub(crate) database: Option<String>,
    pub(crate) options: Option<String>,
    pub(crate) application_name: Option<String>,
    /// How long a connection to one host may take.
    pub(crate) connect_timeout: Duration,
    pub(crate) protection: Protection,
    /// The authority that signed the certificates of the servers; `None` for the public ones.
    pub(crate) authority: Option<PathBuf>,
}

/// A server that may hold the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The name or the address of the host, or the folder of its socket.
    pub name: String,
    /// The port.
    pub port: u16,
}

/// How connections are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// By TLS with a server whose certificate was checked, but for servers of this machine.
    Default,
    /// Not at all.
    None,
    /// By TLS with a server whose certificate was checked.
    Verified,
}

impl Host {
    /// Whether the host is this machine.
    fn is_here(&self) -> bool {
        let is_loopback = |it: IpAddr| it.is_loopback();
        self.is_socket()
            || self.name == "localhost"
            || self.name.parse::<IpAddr>().is_ok_and(is_loopback)
    }

    /// Whether the host is a socket in a folder.
    pub(crate) fn is_socket(&self) -> bool {
        self.name.starts_with('/')
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, port } = self;
        if name.contains(':') { write!(f, "[{name}]:{port}") } else { write!(f, "{name}:{port}") }
    }
}

impl Address {
    /// The configuration of connections to one of the hosts, without the password.
    pub(crate) fn config(&self, host: &Host) -> Config {
        let mut config = Config::new();
        config.user(&self.user).host(&host.name).port(host.port);
        if let Some(database) = &self.database {
            config.dbname(database);
        }
        if let Some(options) = &self.options {
            config.options(options);
        }
        config.application_name(self.application_name.as_deref().unwrap_or("backscroll"));
        let is_encrypted = match self.protection {
            Protection::Default => !host.is_here(),
            Protection::None => false,
            Protection::Verified => !host.is_socket(),
        };
        config.ssl_mode(if is_encrypted { SslMode::Require } else { SslMode::Disable });
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.connect_timeout(self.connect_timeout);
        notice_lost_servers(&mut config, LOST_AFTER);
        config
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(url: &str) -> Result<Self, AddressError> {
        parse::address(url)
    }
}

/// As a URL that says the same, but without the password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://{}@", encoded(&self.user))?;
        for (position, Host { name, port }) in self.hosts.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            if name.contains(':') {
                write!(f, "{comma}[{name}]:{port}")?;
            } else {
                write!(f, "{comma}{}:{port}", encoded(name))?;
            }
        }
        write!(f, "/{}", encoded(self.database.as_deref().unwrap_or_default()))?;
        let path = |it: &Option<PathBuf>| it.as_ref().map(|it| it.display().to_string());
        let mode = match self.protection {
            Protection::Default => None,
            Protection::None => Some("disable".to_owned()),
            Protection::Verified => Some("verify-full".to_owned()),
        };
        let timeout = self.connect_timeout;
        let timeout = (timeout != CONNECT_TIMEOUT).then(|| timeout.as_secs().to_string());
        let parameters = [
            ("options", self.options.clone()),
            ("application_name", self.application_name.clone()),
            ("password_file", path(&self.password_file)),
            ("sslmode", mode),
            ("sslrootcert", path(&self.authority)),
            ("connect_timeout", timeout),
        ];
        let given = parameters.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (position, (name, value)) in given.enumerate() {
            let mark = if position == 0 { '?' } else { '&' };
            write!(f, "{mark}{name}={}", encoded(&value))?;
        }
        Ok(())
    }
}

/// The characters that stand for themselves in a part of a URL.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, PLAIN)
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

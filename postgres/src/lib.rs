//! How our programs connect to PostgreSQL: the URL of a database, TLS by rustls, passwords from files,
//! and how a lost server is noticed.

mod address;
mod connector;
mod parse;
mod tls;

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use tokio_postgres::Config;

pub use self::{
    address::{Address, Host, Protection},
    connector::{ConnectError, Connector},
    parse::AddressError,
    tls::Tls,
};

/// Makes a connection notice that its server has vanished: within `lost_after` while something is sent,
/// within a minute otherwise.
pub fn notice_lost_servers(config: &mut Config, lost_after: Duration) {
    config.keepalives_idle(Duration::from_secs(20)).tcp_user_timeout(lost_after);
    config.keepalives_interval(Duration::from_secs(5)).keepalives_retries(3);
}

/// Reads a password or another secret from a file; white space at its end is ignored.
///
/// # Errors
/// When the file cannot be read, or is not UTF-8.
pub fn read_secret(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.trim_end().to_owned())
}

//! Reads the URL of a database. No error quotes a value: it may hold a password.

use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::{Address, Host, Protection, address::CONNECT_TIMEOUT};

/// The port of PostgreSQL.
const PORT: u16 = 5432;

/// Why a text is not the URL of a database. It never contains the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It begins otherwise.
    #[error("it does not begin with postgres:// or postgresql://")]
    Scheme,
    /// There is no user.
    #[error("it does not name a user: postgres://USER@HOST/DATABASE")]
    NoUser,
    /// There is no host.
    #[error("it does not name a host: postgres://USER@HOST/DATABASE")]
    NoHost,
    /// A port is not a number below 65,536.
    #[error("the port of a host is not a number below 65536")]
    Port,
    /// A part is not percent-encoded as it must be.
    #[error("{0} is not encoded as a URL demands")]
    Encoding(&'static str),
    /// A parameter has no value.
    #[error("a parameter has no value")]
    NoValue,
    /// A parameter that is not known.
    #[error("the parameter {0:?} is not known")]
    Unknown(String),
    /// `sslmode` has another value.
    #[error(
        "sslmode must be verify-full, or disable for a network that you trust; with prefer or allow \
         nobody checks who the server is"
    )]
    SslMode,
    /// `target_session_attrs` has another value.
    #[error("target_session_attrs must be read-write: only the primary has all that is stored")]
    SessionAttributes,
    /// `connect_timeout` is not a number of seconds.
    #[error("connect_timeout must be a number of seconds, 1 or more")]
    ConnectTimeout,
    /// A certificate authority for connections that are not encrypted.
    #[error("sslrootcert has no effect with sslmode=disable")]
    NotEncrypted,
    /// Two passwords.
    #[error("there is both a password and a password_file")]
    TwoPasswords,
}

/// The parts of a URL, still encoded.
struct UrlParts<'u> {
    user: &'u str,
    password: Option<&'u str>,
    hosts: &'u str,
    database: &'u str,
    parameters: &'u str,
}

/// Reads a URL.
pub(crate) fn address(url: &str) -> Result<Address, AddressError> {
    let UrlParts { user, password, hosts, database, parameters } = split(url)?;
    let mut address = Address {
        user: decode(user, "the user")?,
        password: password.map(|it| percent_decode_str(it).collect()),
        password_file: None,
        hosts: Vec::new(),
        database: Some(decode(database, "the name of the database")?).filter(|it| !it.is_empty()),
        options: None,
        application_name: None,
        connect_timeout: CONNECT_TIMEOUT,
        protection: Protection::Default,
        authority: None,
    };
    if !hosts.is_empty() {
        let hosts = hosts.split(',').map(host);
        address.hosts = hosts.collect::<Result<_, _>>()?;
    }
    let mut port = None;
    for parameter in parameters.split('&').filter(|it| !it.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or(AddressError::NoValue)?;
        let value = decode(value, "the value of a parameter")?;
        if name == "port" {
            port = Some(value.parse().map_err(|_| AddressError::Port)?);
        } else {
            address.set(name, value)?;
        }
    }
    if let Some(port) = port {
        address.hosts.iter_mut().for_each(|it| it.port = port);
    }
    address.check()?;
    Ok(address)
}

impl Address {
    fn set(&mut self, name: &str, value: String) -> Result<(), AddressError> {
        match name {
            "user" => self.user = value,
            "password" => self.password = Some(value.into_bytes()),
            "password_file" => self.password_file = Some(value.into()),
            "host" => self.hosts = value.split(',').map(named).collect(),
            "dbname" => self.database = Some(value),
            "options" => self.options = Some(value),
            "application_name" => self.application_name = Some(value),
            "connect_timeout" => {
                let seconds: u64 = value.parse().map_err(|_| AddressError::ConnectTimeout)?;
                self.connect_timeout = Duration::from_secs(seconds);
            }
            "sslmode" => {
                self.protection = match value.as_str() {
                    "disable" => Protection::None,
                    "require" | "verify-ca" | "verify-full" => Protection::Verified,
                    _ => return Err(AddressError::SslMode),
                }
            }
            "sslrootcert" => {
                self.authority = Some(value).filter(|it| it != "system").map(Into::into);
            }
            "target_session_attrs" if value == "read-write" => {}
            "target_session_attrs" => return Err(AddressError::SessionAttributes),
            _ => return Err(AddressError::Unknown(name.to_owned())),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), AddressError> {
        if self.user.is_empty() {
            return Err(AddressError::NoUser);
        }
        if self.hosts.is_empty() || self.hosts.iter().any(|it| it.name.is_empty()) {
            return Err(AddressError::NoHost);
        }
        if self.connect_timeout.is_zero() {
            return Err(AddressError::ConnectTimeout);
        }
        if self.authority.is_some() && self.protection == Protection::None {
            return Err(AddressError::NotEncrypted);
        }
        if self.password.is_some() && self.password_file.is_some() {
            return Err(AddressError::TwoPasswords);
        }
        Ok(())
    }
}

fn split(url: &str) -> Result<UrlParts<'_>, AddressError> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    let rest = rest.ok_or(AddressError::Scheme)?;
    let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = match credentials.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (credentials, None),
    };
    Ok(UrlParts { user, password, hosts, database, parameters })
}

/// A host with its port, as before the name of the database.
fn host(text: &str) -> Result<Host, AddressError> {
    let (name, port) = match text.strip_prefix('[').and_then(|it| it.split_once(']')) {
        Some((name, rest)) => (name, rest.strip_prefix(':')),
        None => match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let name = decode(name, "the name of a host")?;
    let port = port.map_or(Ok(PORT), str::parse).map_err(|_| AddressError::Port)?;
    Ok(Host { name, port })
}

fn named(name: &str) -> Host {
    Host { name: name.to_owned(), port: PORT }
}

fn decode(text: &str, what: &'static str) -> Result<String, AddressError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| AddressError::Encoding(what))
}

#[cfg(test)]
mod tests;

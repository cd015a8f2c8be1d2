//! Server names in the grammar of the Matrix specification, narrowed as in Synapse: labels of letters,
//! digits and hyphens between single dots, a valid IPv6 address in brackets, a port from 1 to 65535.
//! Every server name in real use is valid.
//!
//! Names are compared as texts: case matters, and so does the port.

use std::{fmt, net::Ipv6Addr, num::NonZeroU16, str::FromStr, sync::Arc};

/// The greatest length of a name in bytes, with its port. User ids, which contain a server name, have
/// the same limit.
const MAX_BYTES: usize = 255;

/// A valid server name: `matrix.org`, `10.0.0.1:8448`, `[2001:db8::1]:8448`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName(Arc<str>);

/// The reason why a text is not a server name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerNameError {
    /// The text is empty or longer than 255 bytes.
    #[error("a server name has 1 to 255 characters")]
    Length,
    /// The text in the brackets is not an IPv6 address.
    #[error("no IPv6 address between the brackets")]
    Ipv6,
    /// The host has an empty label or an invalid character.
    #[error("not a host name")]
    Host,
    /// The port is not a number from 1 to 65535, of at most five digits.
    #[error("not a port")]
    Port,
}

impl ServerName {
    /// The name as a text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Splits the name into the host, an IPv6 address with its brackets, and the port. The port is
    /// `None` if the name has none.
    #[must_use]
    pub fn host_and_port(&self) -> (&str, Option<u16>) {
        let start_of_port = self.0.rfind(']').unwrap_or_default();
        match self.0.get(start_of_port..).and_then(|rest| rest.find(':')) {
            Some(colon) => {
                let (host, port) = self.0.split_at(start_of_port + colon);
                (host, port.get(1..).and_then(|port| port.parse().ok()))
            }
            None => (&self.0, None),
        }
    }
}

impl FromStr for ServerName {
    type Err = ServerNameError;

    fn from_str(text: &str) -> Result<Self, ServerNameError> {
        if text.is_empty() || text.len() > MAX_BYTES {
            return Err(ServerNameError::Length);
        }
        let port = if let Some(bracketed) = text.strip_prefix('[') {
            let (address, rest) = bracketed.split_once(']').ok_or(ServerNameError::Ipv6)?;
            address.parse::<Ipv6Addr>().map_err(|_| ServerNameError::Ipv6)?;
            match rest.strip_prefix(':') {
                None if rest.is_empty() => None,
                None => return Err(ServerNameError::Port),
                port => port,
            }
        } else {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            if !host.split('.').all(is_label) {
                return Err(ServerNameError::Host);
            }
            port
        };
        match port {
            Some(port) if !is_port(port) => Err(ServerNameError::Port),
            _ => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_port(port: &str) -> bool {
    // `parse` alone would accept a sign.
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    digits && port.parse::<NonZeroU16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_real_servers_have() {
        for name in [
            "matrix.org",
            "localhost",
            "a",
            "hs1.example:9101",
            "EXAMPLE.org",
            "1.2.3.4",
            "1.2.3.4:8448",
            "256.1.1.1",
            "xn--bcher-kva.example",
            "-a-.b",
            "[::1]",
            "[2001:db8::1]:8448",
            "a:1",
            "a:65535",
            "a:08448",
        ] {
            assert_eq!(name.parse::<ServerName>().map(|n| n.to_string()), Ok(name.to_owned()));
        }
        assert!("a".repeat(255).parse::<ServerName>().is_ok());
    }

    #[test]
    fn hosts_and_ports() {
        for (name, host, port) in [
            ("a.example", "a.example", None),
            ("a:08448", "a", Some(8448)),
            ("1.2.3.4:1", "1.2.3.4", Some(1)),
            ("[::1]", "[::1]", None),
            ("[::1]:65535", "[::1]", Some(65535)),
        ] {
            assert_eq!(name.parse::<ServerName>().unwrap().host_and_port(), (host, port), "{name}");
        }
    }

    #[test]
    fn names_that_none_has() {
        use ServerNameError::{Host, Ipv6, Length, Port};
        for (name, error) in [
            ("", Length),
            (&*"a".repeat(256), Length),
            (".", Host),
            ("a.", Host),
            (".a", Host),
            ("a..b", Host),
            ("a b", Host),
            ("a_b", Host),
            ("a/b", Host),
            ("bücher.example", Host),
            ("a\0", Host),
            (":8448", Host),
            ("a:", Port),
            ("a:0", Port),
            ("a:65536", Port),
            ("a:123456", Port),
            ("a:+80", Port),
            ("a:-1", Port),
            ("a:x", Port),
            ("a:80:80", Port),
            ("::1", Host),
            ("[]", Ipv6),
            ("[::1", Ipv6),
            ("[1.2.3.4]", Ipv6),
            ("[fe80::1%eth0]", Ipv6),
            ("[::1]8448", Port),
            ("[::1]:", Port),
            ("[::1]:0", Port),
        ] {
            assert_eq!(name.parse::<ServerName>(), Err(error), "{name:?}");
        }
    }
}

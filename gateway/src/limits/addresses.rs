//! Whose address is it? The connection's, or what a proxy that we were told to trust says about
//! the one before it.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

use super::LimitOptions;

/// The address that a request came from: of all that `X-Forwarded-For` names, read from the right,
/// the first that is not itself a trusted proxy's. Everything to its left is anybody's say.
pub(super) fn client(options: &LimitOptions, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let mut nearest = peer;
    let named = headers.get_all("x-forwarded-for").iter().rev();
    let mut named = named.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    while options.is_trusted(nearest) {
        // What cannot be read is not looked behind.
        let Some(address) = named.next().and_then(address) else { break };
        nearest = address;
    }
    nearest.to_canonical()
}

/// An address as proxies write it: with or without a port, IPv6 with or without brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|it| it.ip()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(peer: &str, forwarded: &[&str]) -> String {
        let options = LimitOptions {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            ..LimitOptions::default()
        };
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
        }
        client(&options, peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(of("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(of("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(of("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(of("fd00::1", &["2001:db8::1"]), "2001:db8::1");
    }

    #[test]
    fn the_rightmost_that_is_not_trusted() {
        assert_eq!(of("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.2.3.4"]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["1.1.1.1", "198.51.100.1,10.2.3.4"]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["10.9.9.9"]), "10.9.9.9");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn forms_of_addresses() {
        assert_eq!(of("10.0.0.1", &[" 198.51.100.1:1234 "]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["[2001:db8::1]:1234"]), "2001:db8::1");
        assert_eq!(of("10.0.0.1", &["[2001:db8::1]"]), "2001:db8::1");
        // Nobody knows who that is: the proxy answers for it.
        for unreadable in ["1.1.1.1, unknown", "1.1.1.1, ", "1.1.1.1, _hidden", "1.1.1.1, é"] {
            assert_eq!(of("10.0.0.1", &[unreadable]), "10.0.0.1", "{unreadable}");
        }
    }
}

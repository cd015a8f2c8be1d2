//! The client's address behind reverse proxies, from the `X-Forwarded-For` header.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

/// The address that a request was sent from. `X-Forwarded-For` is read from the right; the first
/// address that is not itself a trusted proxy is the client's. Everything to its left was written by
/// the client, and may be wrong.
pub(super) fn client(
    is_trusted: impl Fn(IpAddr) -> bool,
    peer: IpAddr,
    headers: &HeaderMap,
) -> IpAddr {
    chain(is_trusted, peer, headers).last().copied().unwrap_or(peer).to_canonical()
}

/// The same for the next server: the addresses from the client to the peer of the connection.
pub(super) fn forwarded_for(
    is_trusted: impl Fn(IpAddr) -> bool,
    peer: IpAddr,
    headers: &HeaderMap,
) -> String {
    let chain = chain(is_trusted, peer, headers);
    let addresses: Vec<_> = chain.iter().rev().map(|it| it.to_canonical().to_string()).collect();
    addresses.join(", ")
}

/// The addresses from the peer of the connection to the client. All but the last are trusted proxies.
fn chain(is_trusted: impl Fn(IpAddr) -> bool, peer: IpAddr, headers: &HeaderMap) -> Vec<IpAddr> {
    let mut chain = vec![peer];
    let values = headers.get_all("x-forwarded-for").iter().rev();
    let mut hops = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    while chain.last().is_some_and(|last| is_trusted(*last)) {
        // Behind an entry that cannot be parsed, nothing can be trusted.
        let Some(address) = hops.next().and_then(address) else { break };
        chain.push(address);
    }
    chain
}

/// Parses an address as proxies write it: with or without a port, IPv6 with or without brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|it| it.ip()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use ipnet::IpNet;

    use super::*;

    fn of(peer: &str, forwarded: &[&str]) -> String {
        let trusted: [IpNet; 2] = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let is_trusted =
            |it: IpAddr| trusted.iter().any(|range| range.contains(&it.to_canonical()));
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
        }
        client(is_trusted, peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_read() {
        assert_eq!(of("192.0.2.1", &["198.51.100.1"]), "192.0.2.1");
        assert_eq!(of("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(of("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(of("fd00::1", &["2001:db8::1"]), "2001:db8::1");
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_client() {
        assert_eq!(of("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.2.3.4"]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["1.1.1.1", "198.51.100.1,10.2.3.4"]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["10.9.9.9"]), "10.9.9.9");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn addresses_in_all_usual_forms() {
        assert_eq!(of("10.0.0.1", &[" 198.51.100.1:1234 "]), "198.51.100.1");
        assert_eq!(of("10.0.0.1", &["[2001:db8::1]:1234"]), "2001:db8::1");
        assert_eq!(of("10.0.0.1", &["[2001:db8::1]"]), "2001:db8::1");
        // An unknown client counts as the proxy.
        for unreadable in ["1.1.1.1, unknown", "1.1.1.1, ", "1.1.1.1, _hidden", "1.1.1.1, é"] {
            assert_eq!(of("10.0.0.1", &[unreadable]), "10.0.0.1", "{unreadable}");
        }
    }
}

//! Addresses that the gateway never connects to on behalf of a request: its own machine, its own
//! network, and other forms of these addresses. A request names the server whose keys are fetched, so
//! without this list any client could make the gateway connect to internal services.
//!
//! <https://www.iana.org/assignments/iana-ipv4-special-registry/>
//! <https://www.iana.org/assignments/iana-ipv6-special-registry/>

use std::net::IpAddr;

use ipnet::IpNet;

/// Ranges that are denied unless the operator allows them.
const DENIED: [&str; 29] = [
    // This network, unspecified.
    "0.0.0.0/8",
    // Private networks.
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    // Carrier-grade NAT.
    "100.64.0.0/10",
    // Loopback.
    "127.0.0.0/8",
    // Link-local, where clouds hand out credentials.
    "169.254.0.0/16",
    // Protocol assignments, documentation, the former 6to4 relay, benchmarks.
    "192.0.0.0/24",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    // Multicast, reserved, broadcast.
    "224.0.0.0/4",
    "240.0.0.0/4",
    // Unspecified, loopback, IPv4-compatible; IPv4-mapped and -translated.
    "::/96",
    "::ffff:0:0/96",
    "::ffff:0:0:0/96",
    // NAT64.
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    // Discard-only.
    "100::/64",
    // Protocol assignments, of which Teredo, benchmarks and ORCHID are parts.
    "2001::/23",
    // Documentation.
    "2001:db8::/32",
    "3fff::/20",
    // 6to4.
    "2002::/16",
    // Segment routing.
    "5f00::/16",
    // Unique local, link-local and what was site-local once.
    "fc00::/7",
    "fe80::/9",
    // Multicast.
    "ff00::/8",
];

/// Decides which addresses the gateway may connect to.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    denied: Vec<IpNet>,
    allowed: Vec<IpNet>,
}

impl Addresses {
    /// Permits all addresses but the denied ranges, and the allowed parts of these.
    pub(crate) fn new(allowed: Vec<IpNet>) -> Self {
        let denied =
            DENIED.iter().map(|range| range.parse().expect("the constants are valid ranges"));
        Self { denied: denied.collect(), allowed }
    }

    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        let within = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&address));
        within(&self.allowed) || !within(&self.denied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(addresses: &Addresses, address: &str) -> bool {
        addresses.permits(address.parse().unwrap())
    }

    #[test]
    fn internal_addresses_are_denied() {
        let addresses = Addresses::new(Vec::new());
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::808:808",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!permits(&addresses, address), "{address}");
        }
    }

    #[test]
    fn public_addresses_are_permitted() {
        let addresses = Addresses::new(Vec::new());
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2606:4700::1111",
        ] {
            assert!(permits(&addresses, address), "{address}");
        }
    }

    #[test]
    fn an_operator_may_allow_some() {
        let addresses = Addresses::new(vec!["10.1.0.0/16".parse().unwrap()]);
        assert!(permits(&addresses, "10.1.2.3"));
        assert!(!permits(&addresses, "10.2.0.1"));
        assert!(!permits(&addresses, "::ffff:10.1.2.3"));
    }
}

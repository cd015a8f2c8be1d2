//! For whom keys are fetched: nobody knows who it is before they have come, so the address is what
//! callers are told apart by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How much of an IPv6 address tells callers apart. Who has one address of a network of this size
/// has all of them.
const V6_BITS: u32 = 64;

/// Where a request came from: an IPv4 address, or an IPv6 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Asker(IpAddr);

impl Asker {
    /// Of a request of which nobody knows where it came from.
    pub(crate) const UNKNOWN: Self = Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
}

impl From<IpAddr> for Asker {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let mask = u128::MAX << (u128::BITS - V6_BITS);
                Self(Ipv6Addr::from_bits(v6.to_bits() & mask).into())
            }
            v4 => Self(v4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let asker = |text: &str| Asker::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(asker("2001:db8:1:2::1"), asker("2001:db8:1:2:ff::2"));
        assert_ne!(asker("2001:db8:1:2::1"), asker("2001:db8:1:3::1"));
        assert_eq!(asker("::ffff:192.0.2.1"), asker("192.0.2.1"));
        assert_ne!(asker("192.0.2.1"), asker("192.0.2.2"));
    }
}

//! Counting what is there at the same time: all of it, and what is of one address. An address is
//! remembered only while something of it is there.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// The counts, and their bounds.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    max: usize,
    max_per_address: usize,
    now: Arc<Mutex<Now>>,
}

#[derive(Debug, Default)]
struct Now {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    All,
    Address,
}

/// Counts while it is held.
#[derive(Debug)]
pub(crate) struct Counted {
    counts: Counts,
    address: Option<IpAddr>,
}

impl Counts {
    pub(super) fn new(max: usize, max_per_address: usize) -> Self {
        Self { max, max_per_address, now: Arc::default() }
    }

    /// Counts one more, of an address if it is given.
    pub(super) fn count(&self, address: Option<IpAddr>) -> Result<Counted, Full> {
        let address = address.map(group);
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.all >= self.max {
            return Err(Full::All);
        }
        if let Some(address) = address {
            let of = now.of.entry(address).or_default();
            if *of >= self.max_per_address {
                return Err(Full::Address);
            }
            *of += 1;
        }
        now.all += 1;
        Ok(Counted { counts: self.clone(), address })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut now = self.counts.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.all -= 1;
        if let Some(address) = self.address
            && let Some(of) = now.of.get_mut(&address)
        {
            *of -= 1;
            if *of == 0 {
                now.of.remove(&address);
            }
        }
    }
}

/// One caller's addresses: a network of IPv6 is given to one customer, who has 2^64 of them.
pub(super) fn group(address: IpAddr) -> IpAddr {
    const NETWORK: u128 = !0 << 64;
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn all_and_of_one_address() {
        let counts = Counts::new(3, 2);
        let _a = counts.count(ip("10.0.0.1")).unwrap();
        let b = counts.count(ip("::ffff:10.0.0.1")).unwrap();
        assert_eq!(counts.count(ip("10.0.0.1")).unwrap_err(), Full::Address);
        let _c = counts.count(None).unwrap();
        assert_eq!(counts.count(ip("10.0.0.2")).unwrap_err(), Full::All);
        drop(b);
        drop(counts.count(ip("10.0.0.1")).unwrap());
    }

    #[test]
    fn a_network_is_one_caller() {
        let counts = Counts::new(9, 1);
        let _a = counts.count(ip("2001:db8:0:1::1")).unwrap();
        assert_eq!(counts.count(ip("2001:db8:0:1:ffff::2")).unwrap_err(), Full::Address);
        let _b = counts.count(ip("2001:db8:0:2::1")).unwrap();
    }

    #[test]
    fn addresses_are_forgotten() {
        let counts = Counts::new(9, 9);
        drop([counts.count(ip("10.0.0.1")), counts.count(ip("10.0.0.2"))]);
        let now = counts.now.lock().unwrap();
        assert_eq!((now.all, now.of.len()), (0, 0));
    }
}

//! Counts what exists at the same time: in total, and per address. An address takes memory only
//! while something of it is counted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::client_address::ClientAddress;

/// The current counts, and their limits.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    max: usize,
    max_per_address: usize,
    current: Arc<Mutex<CurrentCounts>>,
}

#[derive(Debug, Default)]
struct CurrentCounts {
    total: usize,
    per_address: HashMap<ClientAddress, usize>,
}

/// The limit that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// The limit for all addresses together.
    Total,
    /// The limit for one address.
    PerAddress,
}

/// Counts as one until it is dropped.
#[derive(Debug)]
pub(crate) struct CountGuard {
    counts: Counts,
    address: Option<ClientAddress>,
}

impl Counts {
    pub(super) fn new(max: usize, max_per_address: usize) -> Self {
        Self { max, max_per_address, current: Arc::default() }
    }

    /// Counts one more. Without an address, only the total is checked.
    pub(super) fn count(&self, address: Option<ClientAddress>) -> Result<CountGuard, Exceeded> {
        let mut current = self.lock();
        if current.total >= self.max {
            return Err(Exceeded::Total);
        }
        if let Some(address) = address {
            let count = current.per_address.entry(address).or_default();
            if *count >= self.max_per_address {
                return Err(Exceeded::PerAddress);
            }
            *count += 1;
        }
        current.total += 1;
        Ok(CountGuard { counts: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, CurrentCounts> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        let mut current = self.counts.lock();
        current.total -= 1;
        if let Some(address) = self.address
            && let Some(count) = current.per_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                current.per_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn ip(text: &str) -> Option<ClientAddress> {
        Some(text.parse::<IpAddr>().unwrap().into())
    }

    #[test]
    fn the_total_and_each_address_have_a_limit() {
        let counts = Counts::new(3, 2);
        let _a = counts.count(ip("10.0.0.1")).unwrap();
        let b = counts.count(ip("::ffff:10.0.0.1")).unwrap();
        assert_eq!(counts.count(ip("10.0.0.1")).unwrap_err(), Exceeded::PerAddress);
        let _c = counts.count(None).unwrap();
        assert_eq!(counts.count(ip("10.0.0.2")).unwrap_err(), Exceeded::Total);
        drop(b);
        drop(counts.count(ip("10.0.0.1")).unwrap());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let counts = Counts::new(9, 1);
        let _a = counts.count(ip("2001:db8:0:1::1")).unwrap();
        assert_eq!(counts.count(ip("2001:db8:0:1:ffff::2")).unwrap_err(), Exceeded::PerAddress);
        let _b = counts.count(ip("2001:db8:0:2::1")).unwrap();
    }

    #[test]
    fn addresses_take_no_memory_afterwards() {
        let counts = Counts::new(9, 9);
        drop([counts.count(ip("10.0.0.1")), counts.count(ip("10.0.0.2"))]);
        let current = counts.current.lock().unwrap();
        assert_eq!((current.total, current.per_address.len()), (0, 0));
    }
}

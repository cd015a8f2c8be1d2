//! The gateway fetches other servers' keys: a federation of DNS servers, well-known files, servers and
//! notaries, all on the loopback interface.

mod delegations;
mod discovery;
mod dns;
mod keys;
mod notaries;
mod odd_keys;
mod strangers;
mod world;

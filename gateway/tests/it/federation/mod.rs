//! The gateway learns other servers' keys by itself: a federation of name servers, well-known
//! files, key servers and notaries, all of it on the loopback interface.

mod delegations;
mod discovery;
mod dns;
mod keys;
mod notaries;
mod odd_keys;
mod strangers;
mod world;

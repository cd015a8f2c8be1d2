//! What tests, benchmarks and examples share: made-up rooms, signed federation requests, child
//! processes, PostgreSQL servers, bounded waits, and random numbers that can be repeated.
//!
//! Nothing here uses the code under test: ids and hashes are computed a second time, so a fault in
//! the service cannot hide in the events that test it.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

pub mod cutter;
pub mod event_id;
pub mod federation;
pub mod folder;
pub mod postgres;
pub mod process;
pub mod random;
pub mod room;
pub mod signing;
pub mod within;

pub use federation::{Federation, FederationRequest, FederationResponse};
pub use process::Program;
pub use random::Random;
pub use room::{Draft, Event, Room};
pub use within::{within, within_async};

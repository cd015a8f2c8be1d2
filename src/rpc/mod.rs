//! The gRPC handlers: the only module that knows tonic and the proto types. A method decodes the
//! request, calls one use case and encodes its result; it decides nothing itself.
//!
//! Everything below the handlers is synchronous: [`executor`] moves the work off the async threads,
//! so that a slow disk never stalls health checks.

mod admin;
mod append;
mod bounds;
mod executor;
mod feeder;
mod feeder_lease;
mod history;
mod ingest;
mod keys;
mod lease;
mod observe;
mod progress;
mod purge;
mod require;
mod status;
mod timeout;
mod verify;
mod wall_clock;
mod wire;

pub use admin::AdminHandler;
pub use executor::Executor;
pub use feeder::FeederHandler;
pub use history::HistoryHandler;
pub use ingest::IngestHandler;
pub use keys::KeyHandler;
pub use observe::Observe;
pub use require::{Guarded, Require};
pub use status::opening;
pub use wall_clock::now_ms;

/// The largest request that is accepted, in bytes. A join in a room of 100,000 members comes with the
/// ids of as many state events.
pub const MAX_REQUEST_BYTES: usize = 16 << 20;

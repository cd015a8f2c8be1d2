//! The history service of a Matrix homeserver: it owns every room's event graph and answers what
//! came before an event, and what was missed in between.
//!
//! # The house
//!
//! ```text
//! main ─► cli ─► server                                       starts, stops, talks to people
//!                  │
//!                 rpc ─► proto                                doors: translate, decide nothing
//!          ────────┼──────────────────────────── async above, sync below ────
//!            ┌─────┴─────┐
//!          ingest      query                                  use cases: one decision each
//!            └─────┬─────┘
//!               context
//!                  │
//!                store                                        memory: the only room with sled
//!                  │
//!   graph   visibility   access   state   pdu   picture   deadline     knowledge: pure
//! ```
//!
//! Imports point down. Proto types stop at the door, sled types in the store. Knowledge never
//! meets memory: a use case introduces them, by handing over closures and facts. A test holds the
//! plan (`tests/it/layering.rs`).
//!
//! # What never happens
//!
//! - An event whose state is not known is never served whole.
//! - Nothing outside the room asked for is ever served.
//! - No request works more than its bounds allow, whatever it says.
//! - Nothing is acknowledged that is not on disk.
//! - No content and no key is ever logged. The service opens no connection to anywhere.

pub mod access;
pub mod backlog;
pub mod backup;
pub mod cli;
pub mod context;
pub mod deadline;
pub mod graph;
pub mod ingest;
pub mod metrics;
pub mod pdu;
pub mod picture;
#[cfg(any(test, fuzzing))]
pub mod properties;
pub mod proto;
pub mod query;
pub mod room_format;
pub mod rpc;
pub mod server;
pub mod slow_walks;
pub mod state;
pub mod store;
pub mod verify;
pub mod visibility;

pub use backscroll_telemetry as telemetry;

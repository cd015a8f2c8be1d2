//! The history service of a Matrix homeserver. It stores the event graph of each room, and answers
//! which events precede an event (`/backfill`) and which lie between two others
//! (`/get_missing_events`).
//!
//! # Modules
//!
//! ```text
//! main ─► cli ─► server                           start and stop; commands for operators
//!                  │
//!                 rpc ─► proto                    handlers: decode, call one use case, encode
//!          ────────┼──────────────── async above, sync below ────
//!            ┌─────┴─────┐
//!          ingest      query                      use cases: write and read
//!            └─────┬─────┘
//!               context
//!                  │
//!                store                            records on disk
//!                  │
//!   graph   visibility   access   state   pdu     pure functions, without input or output
//! ```
//!
//! Imports point down. Proto types stop at the handlers, and types of the storage engine stop in the
//! store. The pure modules do not know the store: use cases read facts, and pass them to pure
//! functions. Not drawn: `verify` and `backup` (use cases for operators), `picture` and `room_format`
//! (pure), and `metrics`, `slow_walks`, `backlog` and `deadline` (small shared parts). A test holds
//! this plan (`tests/it/layering.rs`).
//!
//! # Guarantees
//!
//! - An event whose state is not known is never served in full.
//! - A response never contains an event of another room than the one in the request.
//! - Each request does a bounded amount of work, whatever it contains.
//! - An event is acknowledged only when it is on disk.
//! - No event content and no key is logged. The service opens no connections, except for traces if
//!   the operator asks for them.

pub mod access;
pub mod backlog;
pub mod backup;
pub mod cli;
pub mod comparison;
pub mod context;
pub mod deadline;
pub mod graph;
pub mod ingest;
pub mod metrics;
mod num;
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
mod sync;
pub mod verify;
pub mod visibility;

pub use backscroll_telemetry as telemetry;

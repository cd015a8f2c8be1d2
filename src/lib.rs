//! The history service of a Matrix homeserver. It owns the event graph of every room, and answers
//! other servers' questions about it: which events precede an event, and which are missing between
//! two points.
//!
//! # Modules
//!
//! ```text
//! main ─► cli ─► server                                       command line; start and stop
//!                  │
//!                 rpc ─► proto                                gRPC handlers: decode, call, encode
//!          ────────┼──────────────────────────── async above, sync below ────
//!            ┌─────┴─────┐
//!          ingest      query                                  use cases: write, read
//!            └─────┬─────┘
//!               context
//!                  │
//!                store                                        the only module that knows sled
//!                  │
//!   graph   visibility   access   state   pdu   picture   deadline     pure: no I/O
//! ```
//!
//! Imports point down; `tests/it/layering.rs` checks them. Proto types are used only in `rpc` and
//! above, sled types only in `store`. The pure modules do no I/O: use cases pass them facts, and
//! closures to look things up.
//!
//! # Guarantees
//!
//! - An event whose state is not known is never served in full.
//! - A question about one room never gets an event of another.
//! - The work for a request is bounded, whatever the request says.
//! - An event is acknowledged only when it is on disk.
//! - Contents of events and keys are never logged. The service opens no outgoing connections, except
//!   for traces if an endpoint is set.

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

//! The gateway: answers the federation's `/backfill` and `/get_missing_events` over HTTP. It asks a
//! Backscroll history service over gRPC. It stores no state but caches, so any number of replicas may run.
//!
//! ```text
//!  server ──► connection ──► router ──► observe, framing, admission ──► routes
//!  (sockets,   (TLS, HTTP,               (middleware)                    │
//!   stopping)   wire, outgoing)                                          │
//!                                                                        │
//!            ┌───────────────┬─────────────────┬─────────────────────────┤
//!            ▼               ▼                 ▼                         ▼
//!         body            x_matrix          history                answer, error
//!         (parsing)       (signatures)      ══gRPC══►              (responses)
//!                            ▼              the history service
//!                          keys ──► discovery ══HTTPS══► other servers
//!
//!  With a fallback, the routes pass on what the history service cannot answer:
//!                          fallback ══HTTP══► the homeserver
//! ```
//!
//! `limits` holds all limits, and `admission` applies them to requests. Imports point down: the plan is in
//! `tests/it/layering.rs`.
//!
//! What the gateway guarantees:
//!
//! - The gateway authenticates requests. The history service decides about access first, then about
//!   parameters, so that a banned server receives 403 whatever it asks for.
//! - PDUs are passed on as bytes. They are neither parsed nor serialized again.
//! - An invalid request is never answered with a 5xx: servers would stop sending requests for minutes.
//! - Every response to a request is a JSON object, errors included.
//! - Events, signatures and keys are never logged.
//!
//! To start it inside another process, see [`server::serve`].

pub mod command;
pub mod config;
pub mod server;

mod admission;
mod connection;
mod context;
mod framing;
mod handshakes;
mod observe;
mod outgoing;
mod router;
mod routes;

mod answer;
mod back_off;
mod body;
mod error;
pub mod fallback;
pub mod history;
pub mod limits;
mod x_matrix;

mod client_address;
pub mod clock;
pub mod discovery;
pub mod keys;
mod limiter;
mod log_sampler;
pub mod metrics;
#[cfg(any(test, fuzzing))]
pub mod properties;
pub mod proto;
pub mod random;
pub mod shadow;
mod single_flight;
mod wire;

pub use backscroll_matrix::server_name;

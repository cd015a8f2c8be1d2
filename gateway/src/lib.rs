//! The gateway: answers the federation's `/backfill` and `/get_missing_events` over HTTP, from a
//! Backscroll history service over gRPC. Holds nothing that outlives a request, so any number of
//! replicas may run.
//!
//! ```text
//!  server ──► router ──► routes/*  ──► x_matrix ──► keys ──► discovery ══HTTPS══► other servers
//!  (sockets,             (one file      (headers,     who asks?
//!   stopping)             an endpoint)   signatures)
//!                            │
//!                            ├──► limits                        is there room for it?
//!                            ├──► body, json                    what do they send?
//!                            ├──► history ══gRPC══► the graph   what may they have?
//!                            └──► answer, error, outgoing       what do they get?
//! ```
//!
//! What the house promises:
//!
//! - The gateway authenticates; the history service decides about access and parameters, in that
//!   order, so that a banned server hears 403 whatever it asks.
//! - PDUs pass through as bytes. They are neither parsed nor written again.
//! - A caller's mistake is never answered with a 5xx: peers would stop talking to us for minutes.
//! - Every answer to a request, a refusal included, is a JSON object.
//! - Neither events, nor signatures, nor keys are logged.
//!
//! To start it inside another process, see [`server::serve`].

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
pub mod history;
pub mod limits;
mod x_matrix;

mod client_address;
pub mod clock;
pub mod discovery;
mod json;
pub mod keys;
mod limiter;
mod log_sampler;
pub mod metrics;
#[cfg(any(test, fuzzing))]
pub mod properties;
pub mod proto;
pub mod random;
mod single_flight;
mod wire;

pub use backscroll_matrix::server_name;

//! The gateway on a real socket, in front of a history service that the tests control, asked by
//! servers that sign with keys of their own.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what must not happen fails the test"
)]

mod support;

mod backfill;
mod get_missing_events;

mod errors;
mod federation;
mod health;
mod histories;
mod hostile;
mod http;
mod http2;
mod keys;
mod limits;
mod observed;
mod stopping;
mod strangers;
mod tls;
mod x_matrix;

mod arbitrary;
mod process;

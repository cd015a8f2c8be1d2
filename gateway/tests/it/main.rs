//! The gateway on a real socket, with a history service that the tests control, and servers that sign with
//! their own keys.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what must not happen fails the test"
)]

mod support;

/// The messages of the contract, where the generated servers expect them.
mod proto {
    pub(crate) use backscroll_gateway::proto::v1;
}

/// The generated servers of the contract.
#[expect(
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::as_conversions,
    reason = "generated code"
)]
mod servers {
    include!(concat!(env!("OUT_DIR"), "/servers/backscroll.history.v1.rs"));
}

mod backfill;
mod get_missing_events;

mod errors;
mod fallback;
mod federation;
mod health;
mod histories;
mod hostile;
mod http;
mod http2;
mod keys;
mod limits;
mod observed;
mod shadow;
mod shadow_report;
mod stopping;
mod strangers;
mod tls;
mod x_matrix;

mod arbitrary;
mod process;

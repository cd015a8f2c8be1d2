//! The service as its users meet it, on rooms recorded from a real homeserver.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod convergence;
mod graph;
mod leaks;
mod operations;
mod recorded;
mod support;

//! Unary gRPC calls over one shared HTTP/2 connection, directly on the `h2` crate.
//!
//! ```text
//!  Connection::call ──► Connect        opens the byte stream (TCP, TLS), when one is needed
//!         │
//!         ├──► h2                      streams, flow control, keep-alive
//!         └──► ReserveMemory           is asked before a large response is read
//! ```
//!
//! What it does:
//!
//! - Any number of calls share one connection. It is opened by the first call, and opened again by
//!   the first call after it was lost or the server has sent GOAWAY.
//! - A lost peer is noticed by HTTP/2 pings ([`KEEP_ALIVE_INTERVAL`], [`KEEP_ALIVE_TIMEOUT`]).
//! - A response is held once, in memory of the right size. One that is larger than
//!   [`SMALL_RESPONSE_BYTES`] is not read before [`ReserveMemory`] allows it, and the memory counts
//!   as used until the last part of the response is dropped.
//! - Failures are gRPC statuses. UNAVAILABLE means that the call may be repeated.
//!
//! What it leaves to the caller: deadlines (drop the future), the choice between servers, repeated
//! calls, and metrics. It never waits for a response longer than the caller does.
//!
//! What it cannot do: streaming calls, compressed messages.
//!
//! tonic's channel does all of this and more. It was measured to take more processor time than the
//! whole rest of a call, because a request and its response pass through four tasks.

mod call;
mod connection;
mod message;

pub use call::{Call, MAX_RESPONSE_BYTES, ReserveMemory, SMALL_RESPONSE_BYTES};
pub use connection::{
    CONNECT_TIMEOUT, Connect, Connection, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, STREAM_WINDOW,
};
pub use message::EncodedMessage;

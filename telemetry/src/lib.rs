//! Logs on standard error, metrics for Prometheus, and traces that follow a request of another server
//! through the gateway into the history service.
//!
//! The crate knows nothing about either service. Content and keys are never logged, and labels of metrics
//! never have values that a client can choose.

mod codes;
mod logs;
mod page;
mod process;
pub mod trace;

pub use codes::code_name;
pub use logs::{LogFormat, Logs, Traces, start};
pub use page::{metrics_router, serve_metrics, serve_pages};
pub use process::register_process;

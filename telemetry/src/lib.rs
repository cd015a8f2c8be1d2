//! What the services say of themselves: logs on standard error, metrics for Prometheus, and traces
//! that run from another server's request through the gateway into the history service.
//!
//! Nothing here knows what either service does. Neither content nor keys are ever said, and no
//! label of a metric is anything that a caller may choose.

mod codes;
mod logs;
mod page;
mod process;
pub mod trace;

pub use codes::code_name;
pub use logs::{LogFormat, Logs, Traces, start};
pub use page::serve_metrics;
pub use process::register_process;

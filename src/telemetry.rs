//! Logs: to standard error, so that standard output stays what a command prints.

use std::io;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line, for machines.
    Json,
}

/// Starts logging. `filter` is in the words of tracing's `EnvFilter`, such as
/// `info,backscroll=debug`.
///
/// # Errors
/// When the filter is not one.
pub fn start(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(fmt::layer().with_writer(io::stderr)).init(),
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(io::stderr)).init(),
    }
    Ok(())
}

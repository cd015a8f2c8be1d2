//! Logs are written to standard error, because standard output is for the results of commands. Traces are
//! sent to a collector by OTLP, if one is configured.

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing_subscriber::{
    EnvFilter, Layer as _, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people to read.
    Text,
    /// One JSON object per line, for programs to read.
    Json,
}

/// The settings of the log.
#[derive(Clone, Copy, Debug)]
pub struct Logs<'a> {
    /// The format of log lines.
    pub format: LogFormat,
    /// What is logged, as a filter of tracing's `EnvFilter`, such as `info,backscroll=debug`.
    pub filter: &'a str,
}

/// Sends traces until this is dropped. Then it sends those that are left.
#[derive(Debug)]
#[must_use = "no traces are sent after this is dropped"]
pub struct Traces(Option<SdkTracerProvider>);

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|it| it.shutdown()) {
            tracing::debug!(%error, "cannot send the last traces");
        }
    }
}

/// Starts logging, and sending traces if there is a collector (`http://HOST:4317`, OTLP over gRPC). Must
/// be called once in a process; with a collector, within a tokio runtime. The usual variables, such as
/// `OTEL_TRACES_SAMPLER`, configure how many requests are traced.
///
/// # Errors
/// When the filter or the collector's address is not valid.
pub fn start(
    service: &'static str,
    logs: Logs<'_>,
    otlp_endpoint: Option<&str>,
) -> anyhow::Result<Traces> {
    let filter = EnvFilter::builder().parse(logs.filter).context("--log")?;
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let lines = match logs.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let provider = otlp_endpoint.map(|it| provider(service, it)).transpose()?;
    let spans = provider
        .as_ref()
        .map(|it| tracing_opentelemetry::layer().with_tracer(it.tracer("backscroll")));
    tracing_subscriber::registry().with(filter).with(lines).with(spans).init();
    Ok(Traces(provider))
}

fn provider(service: &'static str, endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .context("--otlp-endpoint: expected http://HOST:PORT")?;
    let resource = Resource::builder().with_service_name(service).build();
    Ok(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build())
}

//! Logs: to standard error, so that standard output stays what a command prints. Traces: over
//! OTLP to a collector, if one is named; nothing is sent anywhere otherwise.

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing_subscriber::{
    EnvFilter, Layer as _, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line, for machines.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug)]
pub struct Logs<'a> {
    /// How logs look.
    pub format: LogFormat,
    /// What is logged, in the words of tracing's `EnvFilter`, such as `info,backscroll=debug`.
    pub filter: &'a str,
}

/// Traces that are being sent. Those not sent yet are sent when it is dropped.
#[derive(Debug)]
#[must_use = "traces end when this is dropped"]
pub struct Traces(Option<SdkTracerProvider>);

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|it| it.shutdown()) {
            tracing::debug!(%error, "the last traces could not be sent");
        }
    }
}

/// Starts logging, and sending traces if a collector is named (`http://HOST:4317`, OTLP over
/// gRPC). To be called once a process, and within an async runtime if there is a collector. How
/// many requests are traced is for the usual variables, such as `OTEL_TRACES_SAMPLER`, to say.
///
/// # Errors
/// When the filter or the collector's address is not one.
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

//! `backscroll health`: a probe, for images that hold nothing but this program.

use std::time::Duration;

use anyhow::Context as _;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    ServerArgs,
    client::{channel, told},
    out,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code 0 if it is SERVING, 1 otherwise. Names that can be asked for:
  liveness   SERVING while the process works: if not, start it again
  startup    SERVING since the store was opened, which may take minutes after a crash
  (nothing)  SERVING while questions are answered
  backscroll.history.v1.IngestService, and every other service: SERVING while it answers; the
             ingest service does not while the disk is full")]
pub(super) struct Args {
    #[command(flatten)]
    server: ServerArgs,

    /// How long the answer may take, in seconds.
    #[arg(long, env = "BACKSCROLL_HEALTH_TIMEOUT", default_value_t = 5, value_name = "SECONDS")]
    timeout: u64,

    /// What to ask for. Left out: whether questions are answered.
    #[arg(value_name = "NAME", default_value = "")]
    service: String,
}

pub(super) async fn run(args: Args) -> anyhow::Result<bool> {
    let Args { server, timeout, service } = args;
    let asking = async {
        let mut health = HealthClient::new(channel(&server).await?);
        let answer = health.check(HealthCheckRequest { service }).await;
        anyhow::Ok(answer.map_err(|status| told(&status))?.into_inner().status())
    };
    let status = tokio::time::timeout(Duration::from_secs(timeout), asking)
        .await
        .context("no answer in time")??;
    out::line(status.as_str_name())?;
    Ok(status == ServingStatus::Serving)
}

//! The command `backscroll health`: a probe, for images that contain only this program.

use std::time::Duration;

use anyhow::Context as _;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    ServerArgs,
    client::{channel, message},
    out,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints the health. The exit code is 0 if it is SERVING, and 1 otherwise. The names are:
  liveness     SERVING while the process works. If it is not, restart the process.
  startup      SERVING once the store is open. After a crash this may take minutes.
  (no name)    SERVING while the service answers requests that read.
  backscroll.history.v1.IngestService, or another service: SERVING while it answers requests. The
               ingest service is NOT_SERVING while the disk is full.")]
pub(super) struct HealthArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// The maximum time until the answer, in seconds.
    #[arg(
        long,
        env = "BACKSCROLL_HEALTH_TIMEOUT_SECONDS",
        default_value_t = 5,
        value_name = "SECONDS"
    )]
    timeout_seconds: u64,

    /// The part whose health is requested. By default whether the service answers requests that
    /// read.
    #[arg(value_name = "NAME", default_value = "")]
    service: String,
}

pub(super) async fn run(args: HealthArgs) -> anyhow::Result<bool> {
    let HealthArgs { server, timeout_seconds, service } = args;
    let asking = async {
        let mut health = HealthClient::new(channel(&server).await?);
        anyhow::Ok(message(health.check(HealthCheckRequest { service }).await)?.status())
    };
    let status = tokio::time::timeout(Duration::from_secs(timeout_seconds), asking)
        .await
        .context("the service did not answer in time")??;
    out::line(status.as_str_name())?;
    Ok(status == ServingStatus::Serving)
}

//! The stream on which the follower reports its ticks, and by which it is the feeder.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{History, HistoryError};
use crate::proto::v1::{
    FeedRequest, FeedResponse, FeederAlive, FeederStarted, TickBegun, TickEnded,
    feed_request::Report, feed_response::Notice,
};

/// How often the follower reports that it is at work. The service allows 10 seconds without a report.
const ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// Longest time until the service answers the first report.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time until the service notes that a tick begins.
const NOTED_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest `not_ready_description`, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 1_024;

/// The right to write, for as long as this is held.
#[derive(Debug)]
pub(crate) struct Feed {
    reports: mpsc::Sender<FeedRequest>,
    wanted: Arc<Notify>,
    /// Gets a message when the service has noted that a tick begins.
    noted: mpsc::Receiver<()>,
    receiving: JoinHandle<HistoryError>,
    keeping_alive: JoinHandle<()>,
}

/// What the stream begins with.
#[derive(Debug)]
pub(crate) struct Started {
    /// The stream.
    pub(crate) feed: Feed,
    /// The value for the metadata of the lease.
    pub(crate) lease_id: String,
}

impl Feed {
    /// Becomes the feeder.
    ///
    /// # Errors
    /// When there is another feeder (reason FEEDER_ACTIVE), or the service does not answer.
    pub(crate) async fn start(history: &History, feeder_name: &str) -> anyhow::Result<Started> {
        let (reports, requests) = mpsc::channel(16);
        let started = FeederStarted { feeder_name: feeder_name.to_owned() };
        reports.send(request(Report::Started(started))).await.context("a new channel is open")?;
        let mut feeder = history.feeder.clone();
        let starting = async {
            let response = feeder.feed(ReceiverStream::new(requests)).await;
            let mut notices = response.map_err(HistoryError::from)?.into_inner();
            let first = notices.message().await.map_err(HistoryError::from)?;
            anyhow::Ok((notices, first))
        };
        let (notices, first) = time::timeout(START_TIMEOUT, starting)
            .await
            .context("the history service did not answer in time")??;
        let Some(FeedResponse { notice: Some(Notice::LeaseGranted(lease)) }) = first else {
            bail!("the history service granted no lease");
        };
        let wanted = Arc::new(Notify::new());
        let (to_noted, noted) = mpsc::channel(1);
        let receiving = tokio::spawn(receive(notices, Arc::clone(&wanted), to_noted));
        let keeping_alive = tokio::spawn(keep_alive(reports.clone()));
        let feed = Self { reports, wanted, noted, receiving, keeping_alive };
        Ok(Started { feed, lease_id: lease.lease_id })
    }

    /// Reports that a tick begins, and waits until the service has noted it. Nothing may be read for the
    /// tick before.
    ///
    /// # Errors
    /// When the stream has ended, or the service does not answer in time.
    pub(crate) async fn tick_begun(&mut self) -> anyhow::Result<()> {
        self.report(Report::TickBegun(TickBegun {})).await?;
        match time::timeout(NOTED_TIMEOUT, self.noted.recv()).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(self.ended().await),
            Err(_elapsed) => bail!("the history service did not note the tick in time"),
        }
    }

    /// Reports that everything which was visible at the beginning of the tick was acknowledged.
    /// `not_ready` says why the rooms that are served are not complete; `None` if they are.
    ///
    /// # Errors
    /// When the stream has ended.
    pub(crate) async fn tick_ended(&mut self, not_ready: Option<&str>) -> anyhow::Result<()> {
        let mut description = not_ready.unwrap_or_default().to_owned();
        description.truncate(description.floor_char_boundary(MAX_DESCRIPTION_BYTES));
        let ready = not_ready.is_none();
        self.report(Report::TickEnded(TickEnded { ready, not_ready_description: description }))
            .await
    }

    /// Waits until a request waits for the next tick.
    pub(crate) async fn tick_wanted(&self) {
        self.wanted.notified().await;
    }

    async fn report(&mut self, report: Report) -> anyhow::Result<()> {
        if self.receiving.is_finished() || self.reports.send(request(report)).await.is_err() {
            return Err(self.ended().await);
        }
        Ok(())
    }

    /// Why the stream ended. Called once: the follower then begins a new attempt.
    async fn ended(&mut self) -> anyhow::Error {
        match (&mut self.receiving).await {
            Ok(error) => error.into(),
            Err(error) => anyhow::Error::from(error).context("the task that receives notices"),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.receiving.abort();
        self.keeping_alive.abort();
    }
}

fn request(report: Report) -> FeedRequest {
    FeedRequest { report: Some(report) }
}

/// Receives notices until the stream ends. Returns why it ended.
async fn receive(
    mut notices: Streaming<FeedResponse>,
    wanted: Arc<Notify>,
    noted: mpsc::Sender<()>,
) -> HistoryError {
    loop {
        match notices.message().await {
            Ok(Some(FeedResponse { notice: Some(Notice::TickNoted(_)) })) => {
                // The receiver lives as long as this task. A second message for one tick is ignored.
                noted.try_send(()).unwrap_or_default();
            }
            // One that is received during a tick makes the next tick begin at once.
            Ok(Some(_)) => wanted.notify_one(),
            Ok(None) => return tonic::Status::unavailable("the stream of reports ended").into(),
            Err(status) => return status.into(),
        }
    }
}

async fn keep_alive(reports: mpsc::Sender<FeedRequest>) {
    let mut interval = time::interval(ALIVE_INTERVAL);
    loop {
        interval.tick().await;
        if reports.send(request(Report::Alive(FeederAlive {}))).await.is_err() {
            return;
        }
    }
}

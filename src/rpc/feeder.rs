//! The handler of `FeederService`.

use std::{ops::ControlFlow, pin::pin, sync::Arc};

use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::{
    executor::Executor,
    feeder_lease::SharedLease,
    lease::CallLease,
    progress::{Messages, Sender},
    status,
    timeout::deadline,
    wire,
};
use crate::{
    context::{
        Context,
        feeder::{Feeder, Grant, LEASE_TIME, ReportFault, TickReport, is_feeder_name},
    },
    deadline::Deadline,
    proto::v1::{
        self as pb, ErrorReason, feed_request::Report, feed_response::Notice,
        feeder_service_server::FeederService,
    },
    store::MAX_CURSORS,
};

/// The most responses that wait for a feeder that does not read.
const MAX_UNREAD: usize = 16;
/// The largest cursor, in bytes.
const MAX_CURSOR_BYTES: usize = 64 * 1024;

/// Handles the calls of `FeederService`.
pub struct FeederHandler {
    cx: Arc<Context>,
    executor: Executor,
    stopping: CancellationToken,
}

impl FeederHandler {
    /// A handler that works on a context. When `stopping` is cancelled, open streams end.
    #[must_use]
    pub fn new(cx: Arc<Context>, executor: Executor, stopping: CancellationToken) -> Self {
        Self { cx, executor, stopping }
    }
}

#[tonic::async_trait]
impl FeederService for FeederHandler {
    type FeedStream = Messages<pb::FeedResponse>;

    async fn feed(
        &self,
        request: Request<Streaming<pb::FeedRequest>>,
    ) -> Result<Response<Self::FeedStream>, Status> {
        let (cx, executor) = (Arc::clone(&self.cx), self.executor.clone());
        let stopping = self.stopping.clone();
        let messages = self.executor.serve(MAX_UNREAD, move |to_feeder| async move {
            let requests = request.into_inner();
            let silent_at = Instant::now() + LEASE_TIME;
            let feeder = &cx.feeder;
            let mut feed = Feed { cx: &cx, executor, feeder, requests, to_feeder, silent_at };
            tokio::select! {
                biased;
                () = stopping.cancelled() => Err(status::stopping()),
                ended = feed.run() => ended,
            }
        });
        Ok(Response::new(messages))
    }

    async fn get_feeder(
        &self,
        _: Request<pb::GetFeederRequest>,
    ) -> Result<Response<pb::GetFeederResponse>, Status> {
        let status = self.cx.feeder.status(Instant::now().into_std());
        Ok(Response::new(wire::get_feeder_response(status)))
    }

    async fn put_cursor(
        &self,
        request: Request<pb::PutCursorRequest>,
    ) -> Result<Response<pb::PutCursorResponse>, Status> {
        let deadline = deadline(request.metadata());
        let lease = CallLease::of(request.metadata());
        let pb::PutCursorRequest { feeder_name, cursor } = request.into_inner();
        check_name(&feeder_name)?;
        if cursor.len() > MAX_CURSOR_BYTES {
            let text = format!("the cursor has more than {MAX_CURSOR_BYTES} bytes");
            return Err(status::refuse(ErrorReason::CursorInvalid, &text));
        }
        let writing = lease.begin_write(&self.cx.feeder)?;
        let cx = Arc::clone(&self.cx);
        let put = move |_: &Deadline| {
            let _writing = writing;
            cx.store.put_cursor(&feeder_name, &cursor)
        };
        if self.executor.run(deadline, put).await? {
            return Ok(Response::new(pb::PutCursorResponse {}));
        }
        let text = format!("{MAX_CURSORS} other cursors are stored: remove one by an empty cursor");
        Err(status::refuse(ErrorReason::CursorInvalid, &text))
    }

    async fn get_cursor(
        &self,
        request: Request<pb::GetCursorRequest>,
    ) -> Result<Response<pb::GetCursorResponse>, Status> {
        let deadline = deadline(request.metadata());
        let pb::GetCursorRequest { feeder_name } = request.into_inner();
        check_name(&feeder_name)?;
        let cx = Arc::clone(&self.cx);
        let read = self.executor.run(deadline, move |_| cx.store.cursor(&feeder_name));
        let cursor = read.await?.unwrap_or_default().into();
        Ok(Response::new(pb::GetCursorResponse { cursor }))
    }

    async fn list_cursors(
        &self,
        request: Request<pb::ListCursorsRequest>,
    ) -> Result<Response<pb::ListCursorsResponse>, Status> {
        let deadline = deadline(request.metadata());
        let cx = Arc::clone(&self.cx);
        let read = self.executor.run(deadline, move |_| cx.store.feeders_with_cursor());
        Ok(Response::new(pb::ListCursorsResponse { feeder_names: read.await? }))
    }
}

fn check_name(feeder_name: &str) -> Result<(), Status> {
    if is_feeder_name(feeder_name) {
        return Ok(());
    }
    let text = "the name of a feeder has 1 to 64 of the characters a-z, 0-9, - and _";
    Err(status::refuse(ErrorReason::FeederNameInvalid, text))
}

/// A `Feed` stream.
struct Feed<'f> {
    cx: &'f Arc<Context>,
    executor: Executor,
    feeder: &'f Arc<Feeder>,
    requests: Streaming<pb::FeedRequest>,
    to_feeder: Sender<pb::FeedResponse>,
    /// When the stream ends unless a report comes before.
    silent_at: Instant,
}

/// The lease of a stream. It ends when this is dropped.
struct Lease<'f> {
    feeder: &'f Feeder,
    lease_id: String,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.feeder.release(&self.lease_id);
    }
}

impl Feed<'_> {
    /// Takes the reports of a feeder until it leaves or is silent for too long.
    async fn run(&mut self) -> Result<(), Status> {
        let Some(report) = self.report().await? else { return Ok(()) };
        let Report::Started(pb::FeederStarted { feeder_name }) = report else {
            return Err(invalid("the first report is not `started`"));
        };
        check_name(&feeder_name)?;
        let mut seen = self.feeder.ticks_wanted();
        let feeder = Arc::clone(self.feeder);
        let lease = lease(&feeder, &feeder_name).await?;
        let shared = SharedLease::take(self.cx, &self.executor, &lease.lease_id).await?;
        let mut keeping = pin!(shared.keep(&lease.lease_id));
        info!(feeder = feeder_name, "a feeder has begun");
        let notice = Notice::LeaseGranted(pb::LeaseGranted { lease_id: lease.lease_id.clone() });
        let mut ended = self.send(notice).await;
        while let Ok(ControlFlow::Continue(())) = ended {
            ended = tokio::select! {
                report = self.report() => match report {
                    Ok(Some(report)) => self.take(&lease.lease_id, report).await,
                    Ok(None) => Ok(ControlFlow::Break(())),
                    Err(status) => Err(status),
                },
                status = &mut keeping => Err(status),
                () = feeder.until_tick_wanted(&mut seen) => {
                    self.send(Notice::TickWanted(pb::TickWanted {})).await
                }
            };
        }
        match &ended {
            Ok(_) => info!(feeder = feeder_name, "the feeder has left"),
            Err(status) => {
                warn!(feeder = feeder_name, %status, "the feeder is no longer the feeder");
            }
        }
        ended.map(drop)
    }

    /// The next report; `None` if the feeder has closed the stream. Cancelling it loses nothing.
    async fn report(&mut self) -> Result<Option<Report>, Status> {
        let request = time::timeout_at(self.silent_at, self.requests.message()).await;
        let request = request.map_err(|_| status::lease_lost())??;
        self.silent_at = Instant::now() + LEASE_TIME;
        request.map(wire::feed_report).transpose()
    }

    /// Takes a report of the feeder.
    async fn take(&self, lease_id: &str, report: Report) -> Result<ControlFlow<()>, Status> {
        let now = Instant::now().into_std();
        match report {
            Report::Started(_) => return Err(invalid("only the first report is `started`")),
            Report::Alive(_) => self.feeder.alive(lease_id, now).map_err(of_report)?,
            Report::TickBegun(_) => {
                self.feeder.tick_begun(lease_id, now).map_err(of_report)?;
                return self.send(Notice::TickNoted(pb::TickNoted {})).await;
            }
            Report::TickEnded(pb::TickEnded { ready: is_ready, not_ready_description }) => {
                let report = TickReport { is_ready, not_ready_description };
                self.feeder.tick_ended(lease_id, report, now).map_err(of_report)?;
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Sends a notice; breaks if the feeder has left.
    async fn send(&self, notice: Notice) -> Result<ControlFlow<()>, Status> {
        let response = pb::FeedResponse { notice: Some(notice) };
        match time::timeout(LEASE_TIME, self.to_feeder.send(Ok(response))).await {
            Ok(Ok(())) => Ok(ControlFlow::Continue(())),
            Ok(Err(_closed)) => Ok(ControlFlow::Break(())),
            Err(_elapsed) => Err(status::lease_lost()),
        }
    }
}

/// Gets the lease. Waits for calls of an earlier feeder that still write.
async fn lease<'f>(feeder: &'f Feeder, feeder_name: &str) -> Result<Lease<'f>, Status> {
    let active = || {
        let text = "another caller is the feeder; its lease ends 10 seconds after its last report";
        status::refuse(ErrorReason::FeederActive, text)
    };
    let lease_id = format!("{:032x}", rand::random::<u128>());
    let granting = async {
        loop {
            match feeder.grant(feeder_name, &lease_id, Instant::now().into_std()) {
                Grant::Granted => return Ok(()),
                Grant::Active => return Err(active()),
                Grant::Writing => feeder.until_idle().await,
            }
        }
    };
    let waited = time::timeout(LEASE_TIME, granting).await;
    waited.unwrap_or_else(|_elapsed| Err(active()))?;
    Ok(Lease { feeder, lease_id })
}

fn invalid(fault: &str) -> Status {
    status::refuse(ErrorReason::FeedInvalid, fault)
}

fn of_report(fault: ReportFault) -> Status {
    match fault {
        ReportFault::LeaseLost => status::lease_lost(),
        ReportFault::NoTick => invalid("a tick ends that was not begun"),
    }
}

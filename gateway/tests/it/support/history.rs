//! A history service that answers what a test tells it to, and remembers what it was asked.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use backscroll_gateway::proto::v1::{
    BackfillRequest, BackfillResponse, EndReason, Event, EventForm, GetMissingEventsRequest,
    GetMissingEventsResponse,
    history_service_server::{HistoryService, HistoryServiceServer},
};
use tokio::{net::TcpListener, sync::Notify};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap, transport::Server};
use tonic_health::server::HealthReporter;
use tonic_types::{ErrorDetails, StatusExt as _};

/// What it was asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    Backfill(BackfillRequest),
    GetMissingEvents(GetMissingEventsRequest),
}

/// Makes the answer: PDUs, or a refusal.
type Respond = Box<dyn Fn() -> Result<Vec<Vec<u8>>, Status> + Send>;

#[derive(Clone)]
pub(crate) struct FakeHistory {
    pub(crate) address: SocketAddr,
    pub(crate) health: HealthReporter,
    inner: Arc<Inner>,
    stop: CancellationToken,
}

struct Inner {
    asked: Mutex<Vec<(Asked, MetadataMap)>>,
    respond: Mutex<Respond>,
    /// While set, every question waits here after it has arrived.
    hold: Mutex<Option<Arc<Hold>>>,
}

/// Holds questions back.
#[derive(Default)]
pub(crate) struct Hold {
    pub(crate) arrived: Notify,
    pub(crate) proceed: Notify,
}

/// A refusal as the real service makes it.
pub(crate) fn refusal(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "backscroll.history.v1", []);
    Status::with_error_details(code, "inner workings, not for strangers", details)
}

impl FakeHistory {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (health, health_service) = tonic_health::server::health_reporter();
        let inner = Arc::new(Inner {
            asked: Mutex::default(),
            respond: Mutex::new(Box::new(|| Ok(Vec::new()))),
            hold: Mutex::default(),
        });
        let service = HistoryServiceServer::from_arc(Arc::clone(&inner));
        health.set_serving::<HistoryServiceServer<Inner>>().await;
        let stop = CancellationToken::new();
        let server = Server::builder()
            .add_service(health_service)
            .add_service(service)
            .serve_with_incoming_shutdown(
                TcpListenerStream::new(listener),
                stop.clone().cancelled_owned(),
            );
        tokio::spawn(async { server.await.unwrap() });
        Self { address, health, inner, stop }
    }

    /// Closes the socket, and the connections when they are idle.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    pub(crate) fn respond(
        &self,
        respond: impl Fn() -> Result<Vec<Vec<u8>>, Status> + Send + 'static,
    ) {
        *self.inner.respond.lock().unwrap() = Box::new(respond);
    }

    pub(crate) fn hold(&self) -> Arc<Hold> {
        let hold = Arc::<Hold>::default();
        *self.inner.hold.lock().unwrap() = Some(Arc::clone(&hold));
        hold
    }

    pub(crate) async fn set_serving(&self, serving: bool) {
        if serving {
            self.health.set_serving::<HistoryServiceServer<Inner>>().await;
        } else {
            self.health.set_not_serving::<HistoryServiceServer<Inner>>().await;
        }
    }

    /// Everything asked since the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.inner.asked.lock().unwrap().drain(..).map(|(asked, _metadata)| asked).collect()
    }

    /// A header of everything asked since the last time.
    pub(crate) fn heard(&self, header: &str) -> Vec<Option<String>> {
        let text = |it: &MetadataMap| Some(it.get(header)?.to_str().unwrap().to_owned());
        self.inner.asked.lock().unwrap().drain(..).map(|(_asked, it)| text(&it)).collect()
    }
}

impl Inner {
    async fn answer<Q>(
        &self,
        request: Request<Q>,
        asked: impl FnOnce(Q) -> Asked,
    ) -> Result<Vec<Event>, Status> {
        let metadata = request.metadata().clone();
        let asked = asked(request.into_inner());
        self.asked.lock().unwrap().push((asked.clone(), metadata));
        let hold = self.hold.lock().unwrap().clone();
        if let Some(hold) = hold {
            hold.arrived.notify_one();
            hold.proceed.notified().await;
        }
        let pdus = (self.respond.lock().unwrap())()?;
        // Access first, parameters then, as the contract has it.
        if let Asked::Backfill(BackfillRequest { event_ids, limit, .. }) = asked {
            let reason = match limit {
                _ if event_ids.is_empty() => Some("EVENT_IDS_MISSING"),
                None => Some("LIMIT_MISSING"),
                Some(0) => Some("LIMIT_INVALID"),
                Some(_) => None,
            };
            if let Some(reason) = reason {
                return Err(refusal(Code::InvalidArgument, reason));
            }
        }
        let events = pdus.into_iter().enumerate().map(|(nth, pdu)| Event {
            event_id: format!("${nth}"),
            pdu: pdu.into(),
            form: EventForm::Full.into(),
        });
        Ok(events.collect())
    }
}

#[tonic::async_trait]
impl HistoryService for Inner {
    async fn backfill(
        &self,
        request: Request<BackfillRequest>,
    ) -> Result<Response<BackfillResponse>, Status> {
        let events = self.answer(request, Asked::Backfill).await?;
        let end_reason = EndReason::Exhausted.into();
        Ok(Response::new(BackfillResponse { events, end_reason, ..Default::default() }))
    }

    async fn get_missing_events(
        &self,
        request: Request<GetMissingEventsRequest>,
    ) -> Result<Response<GetMissingEventsResponse>, Status> {
        let events = self.answer(request, Asked::GetMissingEvents).await?;
        let end_reason = EndReason::Exhausted.into();
        Ok(Response::new(GetMissingEventsResponse { events, end_reason, ..Default::default() }))
    }
}

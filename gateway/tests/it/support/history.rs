//! A fake history service: it gives the answers of a test, and records its requests.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::body::Bytes;
use backscroll_gateway::proto::v1::{
    BackfillRequest, BackfillResponse, CompareAnswersRequest, CompareAnswersResponse, EndReason,
    EventForm, GetFeederRequest, GetFeederResponse, GetMissingEventsRequest,
    GetMissingEventsResponse, GetServerKeysRequest, GetServerKeysResponse, PutServerKeysRequest,
    PutServerKeysResponse,
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap, transport::Server};
use tonic_health::server::HealthReporter;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::within;
use crate::servers::{
    feeder_service_server::{FeederService, FeederServiceServer},
    history_service_server::{HistoryService, HistoryServiceServer},
    key_service_server::{KeyService, KeyServiceServer},
};

/// A request that the service has received.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Asked {
    Backfill(BackfillRequest),
    GetMissingEvents(GetMissingEventsRequest),
}

/// Creates an answer: PDUs, or an error.
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
    /// While set, every request waits here.
    hold: Mutex<Option<Arc<Hold>>>,
    /// Whether answers name an unknown event that a later tick may bring.
    not_final: AtomicBool,
    /// What the service says about its feeder.
    feeder: Mutex<GetFeederResponse>,
    /// How it compares answers, and what it was asked to compare.
    comparison: Mutex<CompareAnswersResponse>,
    compared: Mutex<Vec<CompareAnswersRequest>>,
    /// The stored keys and when they were fetched, by server name.
    keys: Mutex<BTreeMap<String, (Value, u64)>>,
}

/// Holds requests back.
pub(crate) struct Hold {
    /// One permit for each request that has arrived and was not waited for.
    arrived: Semaphore,
    /// One permit for each request that may be answered.
    released: Semaphore,
}

impl Hold {
    /// Waits until one more request has arrived.
    pub(crate) async fn arrived(&self) {
        within("a request to the history service", self.arrived.acquire()).await.unwrap().forget();
    }

    /// Lets one request be answered.
    pub(crate) fn release_one(&self) {
        self.released.add_permits(1);
    }

    /// Lets all requests be answered.
    pub(crate) fn release_all(&self) {
        self.released.add_permits(1_000_000);
    }

    async fn wait(&self) {
        self.arrived.add_permits(1);
        self.released.acquire().await.unwrap().forget();
    }
}

/// An error as the real service sends it.
pub(crate) fn refusal(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "backscroll.history.v1", []);
    Status::with_error_details(code, "inner workings, not for strangers", details)
}

/// The same with metadata of the reason.
pub(crate) fn refusal_with(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
    let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let metadata: HashMap<String, String> = metadata.collect();
    let details = ErrorDetails::with_error_info(reason, "backscroll.history.v1", metadata);
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
            not_final: AtomicBool::new(false),
            feeder: Mutex::default(),
            comparison: Mutex::default(),
            compared: Mutex::default(),
            keys: Mutex::default(),
        });
        let service = HistoryServiceServer::from_arc(Arc::clone(&inner));
        health.set_serving::<HistoryServiceServer<Inner>>().await;
        let stop = CancellationToken::new();
        let server = Server::builder()
            .add_service(health_service)
            .add_service(service)
            .add_service(FeederServiceServer::from_arc(Arc::clone(&inner)))
            .add_service(KeyServiceServer::from_arc(Arc::clone(&inner)))
            .serve_with_incoming_shutdown(
                TcpListenerStream::new(listener),
                stop.clone().cancelled_owned(),
            );
        tokio::spawn(async { server.await.unwrap() });
        Self { address, health, inner, stop }
    }

    /// Closes the socket, and each connection when it is idle.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    pub(crate) fn respond(
        &self,
        respond: impl Fn() -> Result<Vec<Vec<u8>>, Status> + Send + 'static,
    ) {
        *self.inner.respond.lock().unwrap() = Box::new(respond);
    }

    pub(crate) fn set_not_final(&self, not_final: bool) {
        self.inner.not_final.store(not_final, Ordering::SeqCst);
    }

    pub(crate) fn set_feeder(&self, feeder: GetFeederResponse) {
        *self.inner.feeder.lock().unwrap() = feeder;
    }

    pub(crate) fn set_comparison(&self, comparison: CompareAnswersResponse) {
        *self.inner.comparison.lock().unwrap() = comparison;
    }

    /// What it was asked to compare since the last call.
    pub(crate) fn compared(&self) -> Vec<CompareAnswersRequest> {
        self.inner.compared.lock().unwrap().drain(..).collect()
    }

    pub(crate) fn hold(&self) -> Arc<Hold> {
        let hold = Arc::new(Hold { arrived: Semaphore::new(0), released: Semaphore::new(0) });
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

    /// The stored keys, by server name.
    pub(crate) fn keys(&self) -> BTreeMap<String, Value> {
        let keys = self.inner.keys.lock().unwrap();
        keys.iter().map(|(server, (answer, _))| (server.clone(), answer.clone())).collect()
    }

    pub(crate) fn put_keys(&self, server_name: &str, answer: Value, fetched_ts: u64) {
        self.inner.keys.lock().unwrap().insert(server_name.to_owned(), (answer, fetched_ts));
    }

    /// All requests since the last call.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.inner.asked.lock().unwrap().drain(..).map(|(asked, _metadata)| asked).collect()
    }

    /// The number of requests since the last call of another method.
    pub(crate) fn count(&self) -> usize {
        self.inner.asked.lock().unwrap().len()
    }

    /// The values of a header in all requests since the last call.
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
    ) -> Result<Vec<Vec<u8>>, Status> {
        let metadata = request.metadata().clone();
        let asked = asked(request.into_inner());
        self.asked.lock().unwrap().push((asked.clone(), metadata));
        let hold = self.hold.lock().unwrap().clone();
        if let Some(hold) = hold {
            hold.wait().await;
        }
        let pdus = (self.respond.lock().unwrap())()?;
        // Access is decided before parameters, as in the contract.
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
        Ok(pdus)
    }
}

/// Joins PDUs to a JSON array.
fn array(pdus: &[Vec<u8>]) -> Bytes {
    [b"[", &pdus.join(&b","[..])[..], b"]"].concat().into()
}

/// The form of each PDU: all are in full.
fn forms(pdus: &[Vec<u8>]) -> Vec<i32> {
    vec![EventForm::Full.into(); pdus.len()]
}

#[tonic::async_trait]
impl HistoryService for Inner {
    async fn backfill(
        &self,
        request: Request<BackfillRequest>,
    ) -> Result<Response<BackfillResponse>, Status> {
        let pdus = self.answer(request, Asked::Backfill).await?;
        Ok(Response::new(BackfillResponse {
            end_reason: EndReason::Exhausted.into(),
            forms: forms(&pdus),
            pdus: array(&pdus),
            not_final: self.not_final.load(Ordering::SeqCst),
            ..BackfillResponse::default()
        }))
    }

    async fn get_missing_events(
        &self,
        request: Request<GetMissingEventsRequest>,
    ) -> Result<Response<GetMissingEventsResponse>, Status> {
        let pdus = self.answer(request, Asked::GetMissingEvents).await?;
        Ok(Response::new(GetMissingEventsResponse {
            end_reason: EndReason::Exhausted.into(),
            forms: forms(&pdus),
            pdus: array(&pdus),
            not_final: self.not_final.load(Ordering::SeqCst),
            ..GetMissingEventsResponse::default()
        }))
    }

    async fn compare_answers(
        &self,
        request: Request<CompareAnswersRequest>,
    ) -> Result<Response<CompareAnswersResponse>, Status> {
        self.compared.lock().unwrap().push(request.into_inner());
        Ok(Response::new(self.comparison.lock().unwrap().clone()))
    }
}

#[tonic::async_trait]
impl FeederService for Inner {
    async fn get_feeder(
        &self,
        _: Request<GetFeederRequest>,
    ) -> Result<Response<GetFeederResponse>, Status> {
        Ok(Response::new(self.feeder.lock().unwrap().clone()))
    }
}

#[tonic::async_trait]
impl KeyService for Inner {
    async fn get_server_keys(
        &self,
        request: Request<GetServerKeysRequest>,
    ) -> Result<Response<GetServerKeysResponse>, Status> {
        let server_name = request.into_inner().server_name;
        let keys = self.keys.lock().unwrap();
        let (answer, fetched_ts) =
            keys.get(&server_name).ok_or_else(|| Status::not_found("no keys"))?;
        let (answer, fetched_ts) = (answer.to_string().into(), *fetched_ts);
        Ok(Response::new(GetServerKeysResponse { answer, fetched_ts }))
    }

    async fn put_server_keys(
        &self,
        request: Request<PutServerKeysRequest>,
    ) -> Result<Response<PutServerKeysResponse>, Status> {
        let PutServerKeysRequest { answer, fetched_ts } = request.into_inner();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let server_name = answer["server_name"].as_str().unwrap().to_owned();
        self.keys.lock().unwrap().insert(server_name, (answer, fetched_ts));
        Ok(Response::new(PutServerKeysResponse {}))
    }
}

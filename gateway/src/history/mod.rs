//! The client of the history service, of which there may be several instances.
//!
//! ```text
//!  History ──► SingleFlight ──► HistoryClient::ask ──► Connection::call (backscroll-grpc-client)
//!              (equal questions  (deadline, headers,
//!               are asked once)   second attempt)
//!                                      │
//!                                      └──► Pool    which instance is asked
//! ```
//!
//! Every call has a deadline, which the service is told. Connections are opened when they are first
//! needed, and again when they break.

mod client;
mod feeder;
mod options;
mod pool;
mod server_keys;

use std::sync::Arc;

use tokio::time::Instant;

use self::client::{Answer, HistoryClient, HistoryQuestion};
pub use self::options::{HistoryFlags, HistoryOptions};
pub(crate) use self::server_keys::{NoStoredKeys, StoredKeys, StoredKeysClient};
pub(crate) use self::{feeder::FeederState, options::plain_url};
use crate::{
    limits::AnswerMemory,
    metrics::Metrics,
    proto::v1::{
        BackfillRequest, BackfillResponse, CompareAnswersRequest, CompareAnswersResponse,
        GetMissingEventsRequest, GetMissingEventsResponse,
    },
    single_flight::SingleFlight,
};

/// A method of one of the history service's gRPC services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct GrpcMethod {
    /// The service, with its package.
    service: &'static str,
    /// The name of the method alone.
    name: &'static str,
    /// The path of the method: `/service/method`.
    path: &'static str,
}

const HISTORY_SERVICE: &str = "backscroll.history.v1.HistoryService";

const BACKFILL: GrpcMethod = GrpcMethod {
    service: HISTORY_SERVICE,
    name: "Backfill",
    path: "/backscroll.history.v1.HistoryService/Backfill",
};
const COMPARE_ANSWERS: GrpcMethod = GrpcMethod {
    service: HISTORY_SERVICE,
    name: "CompareAnswers",
    path: "/backscroll.history.v1.HistoryService/CompareAnswers",
};
const GET_MISSING_EVENTS: GrpcMethod = GrpcMethod {
    service: HISTORY_SERVICE,
    name: "GetMissingEvents",
    path: "/backscroll.history.v1.HistoryService/GetMissingEvents",
};

/// Asks the history service about rooms. Equal questions at the same time are asked once.
#[derive(Debug)]
pub(crate) struct History {
    client: HistoryClient,
    backfills: SingleFlight<HistoryQuestion, Answer<BackfillResponse>>,
    missing_events: SingleFlight<HistoryQuestion, Answer<GetMissingEventsResponse>>,
}

impl History {
    /// Creates the client, which has no connection yet. Must be called within a tokio runtime: a
    /// task keeps the list of instances up to date.
    pub(crate) fn new(
        options: HistoryOptions,
        metrics: Metrics,
        memory: Arc<AnswerMemory>,
    ) -> Self {
        Self {
            client: HistoryClient::start(options, metrics, memory),
            backfills: SingleFlight::default(),
            missing_events: SingleFlight::default(),
        }
    }

    pub(crate) async fn backfill(
        &self,
        request: &BackfillRequest,
        deadline: Instant,
    ) -> Answer<BackfillResponse> {
        let client = self.client.clone();
        let question = HistoryQuestion::new(BACKFILL, request);
        let key = question.clone();
        let ask = || async move { client.ask(&question, deadline).await };
        self.backfills.run(key, ask).await
    }

    pub(crate) async fn get_missing_events(
        &self,
        request: &GetMissingEventsRequest,
        deadline: Instant,
    ) -> Answer<GetMissingEventsResponse> {
        let client = self.client.clone();
        let question = HistoryQuestion::new(GET_MISSING_EVENTS, request);
        let key = question.clone();
        let ask = || async move { client.ask(&question, deadline).await };
        self.missing_events.run(key, ask).await
    }

    /// Compares the homeserver's answer to a question with that of the history service.
    pub(crate) async fn compare_answers(
        &self,
        request: &CompareAnswersRequest,
        deadline: Instant,
    ) -> Answer<CompareAnswersResponse> {
        self.client.ask(&HistoryQuestion::new(COMPARE_ANSWERS, request), deadline).await
    }

    /// A client for the keys of other servers that the history service stores.
    pub(crate) fn stored_keys(&self) -> StoredKeysClient {
        StoredKeysClient::new(self.client.clone())
    }

    /// Whether any instance reports SERVING, asked now.
    pub(crate) async fn is_serving(&self) -> bool {
        self.client.is_serving().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_consist_of_service_and_method() {
        for GrpcMethod { service, name, path } in [BACKFILL, COMPARE_ANSWERS, GET_MISSING_EVENTS] {
            assert_eq!(path, format!("/{service}/{name}"));
        }
    }
}

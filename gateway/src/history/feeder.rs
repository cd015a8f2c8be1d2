//! Asks the history service about its feeder.

use std::time::Duration;

use tokio::time::Instant;

use super::{GrpcMethod, History, client::HistoryQuestion};
use crate::proto::v1::{GetFeederRequest, GetFeederResponse};

const GET_FEEDER: GrpcMethod = GrpcMethod {
    service: "backscroll.history.v1.FeederService",
    name: "GetFeeder",
    path: "/backscroll.history.v1.FeederService/GetFeeder",
};
/// Longest time for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What the history service says about its feeder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FeederState {
    pub(crate) is_ready: bool,
    /// The time since the beginning of the last tick that ended. `None` if it is not known.
    pub(crate) lag: Option<Duration>,
}

impl History {
    /// What is known of the feeder: nothing if the history service does not answer.
    pub(crate) async fn feeder(&self) -> FeederState {
        let question = HistoryQuestion::new(GET_FEEDER, &GetFeederRequest {});
        let until = Instant::now() + TIMEOUT;
        let Ok(answer) = self.client.ask::<GetFeederResponse>(&question, until).await else {
            return FeederState::default();
        };
        let lag = answer.lag.and_then(|lag| Duration::try_from(lag).ok());
        FeederState { is_ready: answer.ready, lag }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_consists_of_service_and_method() {
        let GrpcMethod { service, name, path } = GET_FEEDER;
        assert_eq!(path, format!("/{service}/{name}"));
    }
}

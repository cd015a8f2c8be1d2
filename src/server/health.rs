//! What probes hear, in every state of the service: one table.
//!
//! | name | SERVING | what to do otherwise |
//! |---|---|---|
//! | `liveness` | while the process works; not when its store has failed | start it again |
//! | `startup` | since the store was opened | wait: a large store takes its time |
//! | *(empty)*, and those below | while questions are answered | send them elsewhere |
//! | `…HistoryService`, `…KeyService`, `…AdminService` | likewise | |
//! | `…IngestService` | while events are taken: not on a full disk | keep events back |

use tonic::server::NamedService as _;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    proto::v1::{
        admin_service_server::AdminServiceServer, history_service_server::HistoryServiceServer,
        ingest_service_server::IngestServiceServer, key_service_server::KeyServiceServer,
    },
    rpc::{AdminHandler, HistoryHandler, IngestHandler, KeyHandler},
};

/// What the service is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The store is being opened; that may take minutes after a crash.
    Opening,
    /// Everything is answered and taken.
    Serving,
    /// There is no space: questions are answered, events are not taken.
    DiskFull,
    /// It was asked to stop.
    Stopping,
    /// A write failed: only opening the store again helps.
    Failed,
}

/// What a probe may ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Liveness,
    Startup,
    Answers,
    Takes,
}

/// Every name that can be asked for.
const PROBES: [(&str, Probe); 7] = [
    ("liveness", Probe::Liveness),
    ("startup", Probe::Startup),
    ("", Probe::Answers),
    (HistoryServiceServer::<HistoryHandler>::NAME, Probe::Answers),
    (KeyServiceServer::<KeyHandler>::NAME, Probe::Answers),
    (AdminServiceServer::<AdminHandler>::NAME, Probe::Answers),
    (IngestServiceServer::<IngestHandler>::NAME, Probe::Takes),
];

const fn is_serving(probe: Probe, state: State) -> bool {
    match probe {
        Probe::Liveness => !matches!(state, State::Failed),
        Probe::Startup => !matches!(state, State::Opening),
        Probe::Answers => matches!(state, State::Serving | State::DiskFull),
        Probe::Takes => matches!(state, State::Serving),
    }
}

/// Tells probes.
pub(super) async fn say(health: &HealthReporter, state: State) {
    for (name, probe) in PROBES {
        let status = if is_serving(probe, state) {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        health.set_service_status(name, status).await;
    }
}

#[cfg(test)]
mod tests {
    use super::{State::*, *};

    #[test]
    fn every_probe_in_every_state() {
        let heard = |state| -> String {
            let letter = |probe| if is_serving(probe, state) { '+' } else { '-' };
            [Probe::Liveness, Probe::Startup, Probe::Answers, Probe::Takes]
                .map(letter)
                .iter()
                .collect()
        };
        for (state, expected) in [
            (Opening, "+---"),
            (Serving, "++++"),
            (DiskFull, "+++-"),
            (Stopping, "++--"),
            (Failed, "-+--"),
        ] {
            assert_eq!(heard(state), expected, "{state:?}");
        }
    }
}

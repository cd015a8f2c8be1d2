//! The answers to health probes, in every state of the service.
//!
//! | name | SERVING | what to do otherwise |
//! |---|---|---|
//! | `liveness` | while the process works; not after a write to a store on this machine has failed | restart it |
//! | `startup` | after the store was opened | wait: opening a large store takes time |
//! | *(empty)*, and those below | while requests are answered: not while the database is away for long | send them elsewhere |
//! | `…HistoryService`, `…KeyService`, `…AdminService` | the same | |
//! | `…IngestService` | while events are accepted: not while the volume is full | hold events back |

use tonic::server::NamedService as _;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    proto::v1::{
        admin_service_server::AdminServiceServer, history_service_server::HistoryServiceServer,
        ingest_service_server::IngestServiceServer, key_service_server::KeyServiceServer,
    },
    rpc::{AdminHandler, HistoryHandler, IngestHandler, KeyHandler},
};

/// The state of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// The store is being opened; that may take minutes after a crash.
    Opening,
    /// Requests are answered and events are accepted.
    Serving,
    /// The volume is full: requests are answered, events are not accepted.
    DiskFull,
    /// The database of the store has been away for long: nothing is answered.
    StoreAway,
    /// The service was asked to stop.
    Stopping,
    /// A write failed. Only opening the store again helps.
    Failed,
}

/// The kinds of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Liveness,
    Startup,
    Answers,
    Takes,
}

/// Every name that a probe can ask for.
const PROBES: [(&str, Probe); 7] = [
    ("liveness", Probe::Liveness),
    ("startup", Probe::Startup),
    ("", Probe::Answers),
    (HistoryServiceServer::<HistoryHandler>::NAME, Probe::Answers),
    (KeyServiceServer::<KeyHandler>::NAME, Probe::Answers),
    (AdminServiceServer::<AdminHandler>::NAME, Probe::Answers),
    (IngestServiceServer::<IngestHandler>::NAME, Probe::Takes),
];

const fn is_serving(probe: Probe, state: Health) -> bool {
    match probe {
        Probe::Liveness => !matches!(state, Health::Failed),
        Probe::Startup => !matches!(state, Health::Opening),
        Probe::Answers => matches!(state, Health::Serving | Health::DiskFull),
        Probe::Takes => matches!(state, Health::Serving),
    }
}

/// Sets the answers to probes.
pub(super) async fn report(health: &HealthReporter, state: Health) {
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
    use super::{Health::*, *};

    #[test]
    fn every_probe_in_every_state() {
        let answers = |state| -> String {
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
            (StoreAway, "++--"),
            (Stopping, "++--"),
            (Failed, "-+--"),
        ] {
            assert_eq!(answers(state), expected, "{state:?}");
        }
    }
}

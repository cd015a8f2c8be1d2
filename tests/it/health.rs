//! The health service, and an orderly stop.

use backscroll_testkit::process::Ended;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::failures::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn every_service_is_serving_and_sigterm_ends_with_exit_code_0() {
    let stage = Stage::start().await;
    let Stage { mut clients, service, .. } = stage;
    for name in ["", "HistoryService", "IngestService", "KeyService"] {
        assert_eq!(clients.health(name).await, ServingStatus::Serving, "{name}");
    }
    let Ended { code, log } = service.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("everything is on disk"), "{log}");
}

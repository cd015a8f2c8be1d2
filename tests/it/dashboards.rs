//! Every metric of both services in the dashboard or in an alert exists. Those of the follower are
//! checked beside their names.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use backscroll::proto::v1::{AppendEventsRequest, ingest_service_client::IngestServiceClient};
use backscroll_testkit::{Federation, FederationRequest, within_async};
use prometheus_client::{encoding::prometheus_text, registry::Registry};
use serde_json::Value;

use crate::support::{clients::read_to_end, load::append_room, rooms, services::Services};

const PATIENCE: Duration = Duration::from_secs(60);
/// Metrics of Kubernetes.
const ELSEWHERE: [&str; 1] = ["kube_cronjob_status_last_successful_time"];
/// Counters of a gateway with a fallback and a shadow, which this one has not, and where they are named.
const BESIDE_A_HOMESERVER: [[&str; 2]; 3] = [
    ["backscroll_gateway_fallback_total", "gateway/src/metrics/fallback.rs"],
    ["backscroll_gateway_fallback_failures_total", "gateway/src/metrics/fallback.rs"],
    ["backscroll_gateway_shadow_total", "gateway/src/metrics/shadow.rs"],
];

/// The words of an expression that look like names of metrics.
fn asked_for(expression: &str) -> impl Iterator<Item = &str> {
    let of_a_word = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let words = expression.split(move |it| !of_a_word(it));
    words.filter(|it| {
        let prefixes = ["backscroll_", "process_", "kube_"];
        let is_grpc = it.starts_with("grpc_server_") || it.starts_with("grpc_client_");
        let is_of_services = is_grpc || prefixes.iter().any(|prefix| it.starts_with(prefix));
        is_of_services && !it.starts_with("backscroll_synapse_")
    })
}

fn shown(registry: &Registry) -> BTreeSet<String> {
    let mut text = String::new();
    prometheus_text::encode(&mut text, registry).unwrap();
    let samples = text.lines().filter(|it| !it.starts_with('#'));
    samples.map(|it| it.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_dashboard_and_alerts_exists() {
    let data_dir = tempfile::tempdir().unwrap();
    let keys = rooms::keys();
    let services = Services::start(data_dir.path(), "hs1.example:9101", &keys.server).await;
    let room = rooms::bundled().into_iter().find(|it| it.name == "visibility-v12").unwrap();
    append_room(&services.cx, &room);
    let history = format!("http://{}", services.history);
    let mut ingest = IngestServiceClient::connect(history).await.unwrap();
    let taken = AppendEventsRequest {
        room_id: room.header.room_id.clone(),
        pdu: room.lines[0].pdu.get().to_owned().into(),
        ..AppendEventsRequest::default()
    };
    let requests = tokio_stream::iter([taken, AppendEventsRequest::default()]);
    let responses = ingest.append_events(requests).await.unwrap();
    read_to_end(responses.into_inner()).await.unwrap();
    let federation = Federation::from_json(&keys.signing);
    let last = &room.lines.last().unwrap().event_id;
    for origin in ["hs2.example:9102", "outsider.example:9104"] {
        let room_id = &room.header.room_id;
        let uri = format!("/_matrix/federation/v1/backfill/{room_id}?v={last}&limit=9");
        let (destination, method) = ("hs1.example:9101", "GET");
        let request = FederationRequest { origin, destination, method, uri: &uri, content: None };
        federation.send(services.gateway, request).await;
    }
    let registry = services.cx.metrics.registry();
    within_async(PATIENCE, "rooms that are not served are counted", async {
        while !shown(&registry).contains("backscroll_rooms_not_served") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut shown_by_either = shown(&registry);
    shown_by_either.extend(shown(&services.gateway_metrics.registry()));
    for [name, file] in BESIDE_A_HOMESERVER {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let registered = format!("\"{}\"", name.trim_end_matches("_total"));
        assert!(fs::read_to_string(&file).unwrap().contains(&registered), "{name} in {file:?}");
        shown_by_either.insert(name.to_owned());
    }

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/kubernetes/monitoring");
    let rules = fs::read_to_string(folder.join("rules.yaml")).unwrap();
    let dashboard = fs::read(folder.join("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_slice(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|it| it["targets"].as_array()).flatten();
    let expressions: Vec<&str> = targets.map(|it| it["expr"].as_str().unwrap()).collect();
    let asked: BTreeSet<&str> =
        expressions.into_iter().chain([&*rules]).flat_map(asked_for).collect();
    assert!(asked.len() > 25, "{asked:?}");
    let absent: Vec<&&str> = asked
        .iter()
        .filter(|it| !shown_by_either.contains(**it) && !ELSEWHERE.contains(it))
        .collect();
    assert!(absent.is_empty(), "missing: {absent:?}; the services have {shown_by_either:?}");
    services.stop().await;
}

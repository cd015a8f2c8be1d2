//! Metrics after a known load, and traces that are passed on.

use backscroll_gateway::metrics::Metrics;
use prometheus_client::encoding::prometheus_text;
use tonic::Code;

use crate::support::{Stage, client::Ask, history::refusal};

const TARGET: &str = "/_matrix/federation/v1/backfill/!r:us.example?v=$a&limit=1";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn counts_after_a_known_load() {
    let metrics = Metrics::new();
    let stage = Stage::start_with(|options| options.metrics = metrics.clone()).await;
    stage.history.respond(|| Ok(vec![b"{}".to_vec(), b"{}".to_vec()]));
    stage.get(TARGET).await;
    stage.get(TARGET).await;
    stage.send(Ask::new("GET", TARGET)).await;
    stage.send(Ask::new("GET", "/anything/a/stranger/chooses")).await;
    stage.send(Ask::new("GET", "/readyz")).await;
    stage.history.respond(|| Err(refusal(Code::PermissionDenied, "NOT_ALLOWED")));
    stage.get(TARGET).await;

    let mut shown = String::new();
    prometheus_text::encode(&mut shown, &metrics.registry()).unwrap();
    let requests = "backscroll_gateway_http_requests_total{endpoint=";
    let calls = "grpc_client_handled_total{grpc_service=\"backscroll.history.v1.HistoryService\",\
                 grpc_method=\"Backfill\",grpc_code=";
    for line in [
        format!("{requests}\"backfill\",status=\"200\",errcode=\"\"}} 2"),
        format!("{requests}\"backfill\",status=\"401\",errcode=\"M_UNAUTHORIZED\"}} 1"),
        format!("{requests}\"backfill\",status=\"403\",errcode=\"M_FORBIDDEN\"}} 1"),
        format!("{requests}\"other\",status=\"404\",errcode=\"M_UNRECOGNIZED\"}} 1"),
        format!("{requests}\"readyz\",status=\"200\",errcode=\"\"}} 1"),
        format!("{calls}\"OK\"}} 2"),
        format!("{calls}\"PermissionDenied\"}} 1"),
        "backscroll_gateway_events_total{endpoint=\"backfill\"} 4".to_owned(),
        "backscroll_gateway_http_request_seconds_count{endpoint=\"backfill\"} 4".to_owned(),
        "backscroll_gateway_in_flight 0".to_owned(),
        "backscroll_gateway_panics_total 0".to_owned(),
    ] {
        assert!(shown.lines().any(|it| it == line), "{line} is not in\n{shown}");
    }
    assert!(!shown.contains("stranger"), "{shown}");
}

#[tokio::test]
async fn a_trace_goes_on_into_the_history_service() {
    let stage = Stage::start().await;
    let ask = Ask::new("GET", TARGET).signed_by(&stage.peer);
    stage.send(ask.clone().header("traceparent", PARENT)).await;
    stage.send(ask.clone().header("traceparent", "nonsense")).await;
    stage.send(ask).await;
    assert_eq!(stage.history.heard("traceparent"), [Some(PARENT.to_owned()), None, None]);
}

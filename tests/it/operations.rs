//! The view of operators: probes in every state, metrics after a known load, one log line per request.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use backscroll::{
    context::Context,
    metrics::Metrics,
    proto::v1::{
        AppendEventsRequest, BackfillRequest, EventForm, GetRoomRequest, Requester, StatsRequest,
        WalkKind, admin_service_client::AdminServiceClient,
        history_service_client::HistoryServiceClient, ingest_service_client::IngestServiceClient,
    },
    server::{self, Callers, Front, Stopping},
    store::Options,
};
use prometheus_client::encoding::prometheus_text;
use serde_json::Value;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time};
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    clients::{self, read_to_end},
    engine,
    rooms::{self, RecordedRoom},
};

const HISTORY: &str = "backscroll.history.v1.HistoryService";
const INGEST: &str = "backscroll.history.v1.IngestService";

/// A service that waits for the test before each step of its life.
struct Service {
    address: SocketAddr,
    metrics: Metrics,
    open: Option<oneshot::Sender<Arc<Context>>>,
    signals: Vec<oneshot::Sender<()>>,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Service {
    async fn start(stopping: Stopping) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Metrics::new();
        let (open, opened) = oneshot::channel();
        let opening = async { Ok(opened.await?) };
        let (first, shutdown) = oneshot::channel::<()>();
        let (second, hurry) = oneshot::channel::<()>();
        let counted = metrics.clone();
        let running = tokio::spawn(async move {
            let shutdown = async { drop(shutdown.await) };
            let hurry = async { drop(hurry.await) };
            let front = Front { listener, callers: Callers::default(), metrics: counted };
            server::run(front, opening, stopping, shutdown, hurry).await
        });
        // The signals are taken from the end of the list.
        Self { address, metrics, open: Some(open), signals: vec![second, first], running }
    }

    fn open(&mut self, options: &Options) {
        let cx = server::open_counted(options, self.metrics.clone()).unwrap();
        assert!(self.open.take().unwrap().send(cx).is_ok());
    }

    fn signal(&mut self) {
        self.signals.pop().unwrap().send(()).unwrap();
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    /// Whether liveness, startup, the empty name, the history and the ingest service are SERVING: one `+`
    /// or `-` for each.
    async fn probes(&self) -> String {
        let mut health = HealthClient::new(self.channel().await);
        let mut heard = String::new();
        for service in ["liveness", "startup", "", HISTORY, INGEST] {
            let service = service.to_owned();
            let status = health.check(HealthCheckRequest { service }).await.unwrap();
            let is_serving = status.into_inner().status() == ServingStatus::Serving;
            heard.push(if is_serving { '+' } else { '-' });
        }
        heard
    }

    async fn wait_for_probes(&self, expected: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let heard = self.probes().await;
            if heard == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{heard} instead of {expected}");
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn shown(&self) -> String {
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.metrics.registry()).unwrap();
        text
    }
}

fn options(data_dir: &tempfile::TempDir) -> Options {
    Options { cache_bytes: 64 << 20, ..Options::small(data_dir.path()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_from_opening_to_the_end() {
    let data_dir = tempfile::tempdir().unwrap();
    let (notice, grace) = (Duration::from_secs(60), Duration::from_secs(60));
    let mut service = Service::start(Stopping { notice, grace }).await;
    assert_eq!(service.probes().await, "+----");
    // Requests that arrive before the store is open wait for it.
    let mut history = HistoryServiceClient::new(service.channel().await);
    let early = tokio::spawn(async move {
        let room_id = "!unknown:a.example".to_owned();
        history.get_room(GetRoomRequest { room_id }).await.unwrap_err().code()
    });

    service.open(&options(&data_dir));
    service.wait_for_probes("+++++").await;
    assert_eq!(early.await.unwrap(), Code::NotFound);

    service.signal();
    service.wait_for_probes("++---").await;
    // During the shutdown notice the service continues to answer.
    let mut admin = AdminServiceClient::new(service.channel().await);
    assert_eq!(admin.stats(StatsRequest {}).await.unwrap().into_inner().room_count, 0);
    // The second signal ends both the notice and the grace period.
    let hurried = Instant::now();
    service.signal();
    service.running.await.unwrap().unwrap();
    assert!(hurried.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_while_the_store_opens_stops_the_service() {
    let mut service = Service::start(Stopping::default()).await;
    assert_eq!(service.probes().await, "+----");
    service.signal();
    service.running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_on_a_full_disk() {
    if !engine::is_in_files() {
        return;
    }
    let data_dir = tempfile::tempdir().unwrap();
    let mut service = Service::start(Stopping::default()).await;
    service.open(&Options { reserved_bytes: u64::MAX, ..options(&data_dir) });
    service.wait_for_probes("++++-").await;
    assert!(service.shown().contains("\nbackscroll_disk_full 1\n"));
    service.signal();
    service.running.await.unwrap().unwrap();
}

async fn append(channel: &Channel, room: &RecordedRoom) {
    let requests: Vec<AppendEventsRequest> = room
        .lines
        .iter()
        .map(|line| AppendEventsRequest {
            kept: String::new(),
            replace: 0,
            room_id: room.header.room_id.clone(),
            room_version: room.header.room_version.clone(),
            event_id: line.event_id.clone(),
            pdu: line.pdu.get().to_owned().into(),
            verdict: clients::verdict(line.rejected, line.soft_failed).into(),
            outlier: line.outlier,
            state_after: line.state_after.clone(),
            arrival: None,
        })
        .collect();
    let mut ingest = IngestServiceClient::new(channel.clone());
    let responses = ingest.append_events(tokio_stream::iter(requests)).await.unwrap();
    read_to_end(responses.into_inner()).await.unwrap();
}

fn room(name: &str) -> RecordedRoom {
    rooms::bundled().into_iter().find(|it| it.name == name).unwrap()
}

fn backfill(room: &RecordedRoom, origin: &str) -> BackfillRequest {
    let (origin, destination) = (origin.to_owned(), "hs1.example:9101".to_owned());
    BackfillRequest {
        feeder_bounds: None,
        room_id: room.header.room_id.clone(),
        requester: Some(Requester { origin, destination }),
        event_ids: vec![room.lines.last().unwrap().event_id.clone()],
        limit: Some(40),
        omit_event_ids: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_after_a_known_load() {
    let data_dir = tempfile::tempdir().unwrap();
    let mut service = Service::start(Stopping::default()).await;
    service.open(&options(&data_dir));
    let (channel, room) = (service.channel().await, room("visibility-v12"));
    append(&channel, &room).await;
    append(&channel, &room).await;
    let mut ingest = IngestServiceClient::new(channel.clone());
    let empty = tokio_stream::iter([AppendEventsRequest::default()]);
    let refused = ingest.append_events(empty).await.unwrap();
    read_to_end(refused.into_inner()).await.unwrap();

    let mut history = HistoryServiceClient::new(channel.clone());
    let answer = history.backfill(backfill(&room, "hs2.example:9102")).await.unwrap().into_inner();
    let redacted = answer.forms().filter(|it| *it == EventForm::Redacted).count();
    assert!(redacted > 0 && redacted < 40, "{redacted}");
    let stranger = history.backfill(backfill(&room, "evil.example")).await.unwrap_err();
    assert_eq!(stranger.code(), Code::PermissionDenied);
    let mut unknown = tonic::client::Grpc::new(channel.clone());
    unknown.ready().await.unwrap();
    let path = "/anything.a.caller/Chooses".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<GetRoomRequest, GetRoomRequest>::default();
    let request = Request::new(GetRoomRequest::default());
    assert_eq!(unknown.unary(request, path, codec).await.unwrap_err().code(), Code::Unimplemented);

    let mut admin = AdminServiceClient::new(channel);
    let stats = admin.stats(StatsRequest {}).await.unwrap().into_inner();
    let events = room.lines.len();
    assert_eq!((stats.room_count, stats.event_count), (1, u64::try_from(events).unwrap()));
    let [walk] = &stats.slowest_walks[..] else { panic!("{stats:?}") };
    assert_eq!((walk.kind(), &*walk.origin), (WalkKind::Backfill, "hs2.example:9102"));
    assert_eq!(
        (walk.visited_event_count, &walk.room_id),
        (answer.visited_event_count, &room.header.room_id)
    );

    let shown = service.shown();
    let labels = |method: &str| format!("grpc_service=\"{HISTORY}\",grpc_method=\"{method}\"");
    for line in [
        format!("grpc_server_handled_total{{{},grpc_code=\"OK\"}} 1", labels("Backfill")),
        format!(
            "grpc_server_handled_total{{{},grpc_code=\"PermissionDenied\"}} 1",
            labels("Backfill")
        ),
        format!("grpc_server_handling_seconds_count{{{}}} 2", labels("Backfill")),
        "grpc_server_handled_total{grpc_service=\"unknown\",grpc_method=\"unknown\",\
         grpc_code=\"Unimplemented\"} 1"
            .to_owned(),
        format!("backscroll_events_appended_total{{outcome=\"new\"}} {events}"),
        format!("backscroll_events_appended_total{{outcome=\"duplicate\"}} {events}"),
        "backscroll_events_refused_total{reason=\"ROOM_ID_INVALID\"} 1".to_owned(),
        format!("backscroll_events_served_total{{form=\"redacted\"}} {redacted}"),
        format!("backscroll_events_served_total{{form=\"full\"}} {}", 40 - redacted),
        "backscroll_questions_refused_total{reason=\"origin_not_joined\"} 1".to_owned(),
        "backscroll_walk_nodes_count{question=\"backfill\"} 1".to_owned(),
        "backscroll_walks_ended_total{reason=\"limit\"} 1".to_owned(),
        "backscroll_panics_total 0".to_owned(),
    ] {
        assert!(shown.lines().any(|it| it == line), "{line} is not in\n{shown}");
    }
    assert!(!shown.contains("Chooses") && !shown.contains("evil.example"), "{shown}");
    service.signal();
    service.running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_logs_one_line_with_its_trace_and_without_content() {
    let data_dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_backscroll"))
        .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--reserved-mib", "0"])
        .args(crate::support::process::store(data_dir.path()))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| {
        let line = line.unwrap();
        (serde_json::from_str::<Value>(&line).unwrap(), line)
    });
    let address = log.next().unwrap().0["address"].as_str().unwrap().to_owned();
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let (channel, room) = (channel.connect().await.unwrap(), room("visibility-v12"));
    append(&channel, &room).await;
    let mut request = Request::new(backfill(&room, "hs2.example:9102"));
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    let answer = HistoryServiceClient::new(channel).backfill(request).await.unwrap().into_inner();
    let kill = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let log: Vec<(Value, String)> = log.collect();
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let lines: Vec<_> = log.iter().filter(|it| it.0["span"]["method"] == "Backfill").collect();
    let [(line, _)] = lines[..] else { panic!("{log:?}") };
    let span = &line["span"];
    assert_eq!((&line["level"], &line["code"]), (&"INFO".into(), &"OK".into()));
    assert_eq!(span["trace"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(span["origin"], "\"hs2.example:9102\"");
    assert_eq!(span["room"], format!("{:?}", room.header.room_id));
    assert_eq!(span["visited"], answer.visited_event_count);
    assert_eq!(span["end"], "limit");
    assert_eq!(span["full"].as_u64().unwrap() + span["redacted"].as_u64().unwrap(), 40);
    let append = log.iter().find(|it| it.0["span"]["method"] == "AppendEvents").unwrap();
    assert_eq!(append.0["span"]["appended"], room.lines.len());
    assert!(log.iter().all(|it| !it.1.contains("body") && !it.1.contains("signatures")), "{log:?}");
}

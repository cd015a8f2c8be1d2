//! The real gateway beside a homeserver that answers as a real one was recorded: over all recorded
//! questions no difference is left unexplained; one wrong event is found, and so is a history service that
//! does not redact.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{self, Body, Bytes},
    extract::{Request as HttpRequest, State},
    response::Response,
};
use backscroll::{
    context::Context,
    proto::v1::{
        self as pb, feed_request::Report, feed_response::Notice,
        feeder_service_client::FeederServiceClient,
    },
    store::{Decision, StoreError, View as _},
};
use backscroll_gateway::{
    fallback::FallbackOptions,
    metrics::Metrics,
    shadow::{Answerer, ShadowOptions, ShadowReportFlags, ShadowResults},
};
use backscroll_testkit::{Federation, FederationRequest, within_async};
use prometheus_client::encoding::prometheus_text;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    compare_answers::{BothForms, Forms, both_forms},
    support::{
        load::append_room,
        rooms::{self, RecordedRoom, Request},
        services::Services,
    },
};

const PATIENCE: Duration = Duration::from_secs(120);

/// A request as a homeserver can tell it from others: who asks, the target, the body.
type Asked = (String, String, String);

/// The answers of the fake homeserver.
type Answers = BTreeMap<Asked, (u16, String)>;

fn asked(request: &Request) -> Asked {
    let content = request.content.as_ref().map(Value::to_string).unwrap_or_default();
    (request.origin.clone(), request.uri.clone(), content)
}

/// What the recorded homeserver answered to a request, with these events.
fn answer(request: &Request, pdus: &[String]) -> (u16, String) {
    let status = request.synapse.status;
    let body = match (status, &*request.method) {
        (200, "GET") => format!(
            r#"{{"origin":"{}","origin_server_ts":1,"pdus":[{}]}}"#,
            request.destination,
            pdus.join(",")
        ),
        (200, _) => format!(r#"{{"events":[{}]}}"#, pdus.join(",")),
        _ => json!({ "errcode": request.synapse.errcode, "error": "refused" }).to_string(),
    };
    (status, body)
}

/// Starts a homeserver that gives these answers. Returns its address.
async fn homeserver(answers: Answers) -> String {
    async fn respond(State(answers): State<Arc<Answers>>, request: HttpRequest) -> Response {
        let header = request.headers()["authorization"].to_str().unwrap().to_owned();
        let origin = header.split("origin=").nth(1).unwrap().split(',').next().unwrap();
        let target = request.uri().path_and_query().unwrap().as_str().to_owned();
        let body: Bytes = body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let content: Option<Value> = serde_json::from_slice(&body).ok();
        let content = content.as_ref().map(Value::to_string).unwrap_or_default();
        let asked = (origin.trim_matches('"').to_owned(), target, content);
        let (status, text) = answers.get(&asked).unwrap_or_else(|| panic!("{asked:?}"));
        let response = Response::builder().status(*status);
        response.header("content-type", "application/json").body(Body::from(text.clone())).unwrap()
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(respond).with_state(Arc::new(answers));
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    url
}

/// A feeder that is always ready: its ticks follow each other.
async fn feeder(history: String) -> JoinHandle<()> {
    let (to_service, requests) = mpsc::channel(16);
    let report = |report| pb::FeedRequest { report: Some(report) };
    let feeder_name = "synapse".to_owned();
    to_service.send(report(Report::Started(pb::FeederStarted { feeder_name }))).await.unwrap();
    let mut client = FeederServiceClient::connect(history).await.unwrap();
    let mut notices = client.feed(ReceiverStream::new(requests)).await.unwrap().into_inner();
    notices.message().await.unwrap().expect("the lease");
    let (first_tick, ticked) = tokio::sync::oneshot::channel();
    let mut first_tick = Some(first_tick);
    let ticking = tokio::spawn(async move {
        loop {
            to_service.send(report(Report::TickBegun(pb::TickBegun {}))).await.unwrap();
            loop {
                let Ok(Some(message)) = notices.message().await else { return };
                if matches!(message.notice, Some(Notice::TickNoted(_))) {
                    break;
                }
            }
            let ended = pb::TickEnded { ready: true, ..pb::TickEnded::default() };
            to_service.send(report(Report::TickEnded(ended))).await.unwrap();
            if let Some(first) = first_tick.take() {
                first.send(()).unwrap();
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    });
    ticked.await.unwrap();
    ticking
}

/// What a homeserver and a history service are made to do wrong.
struct Faults<C, D> {
    /// Changes the events of each recorded answer of the homeserver.
    change_answer: C,
    /// Changes the store of the history service after all events were appended.
    damage: D,
}

/// What the gateway has found.
struct Found {
    /// The number of comparisons by result.
    results: BTreeMap<String, u64>,
    /// What `backscroll-gateway shadow-report` prints.
    report: String,
}

/// What `backscroll-gateway shadow-report` prints for a gateway that shows these results.
async fn report(shown: &ShadowResults) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let serving = tokio::spawn(backscroll::telemetry::serve_pages(listener, shown.page()));
    let report = ShadowReportFlags { url }.report().await.unwrap();
    serving.abort();
    report
}

/// The number of comparisons by result.
fn results(metrics: &Metrics) -> BTreeMap<String, u64> {
    let mut text = String::new();
    prometheus_text::encode(&mut text, &metrics.registry()).unwrap();
    let lines = text.lines().filter_map(|line| {
        let line = line.strip_prefix(r#"backscroll_gateway_shadow_total{result=""#)?;
        let (result, count) = line.split_once(r#""} "#)?;
        Some((result.to_owned(), count.parse().unwrap()))
    });
    lines.filter(|(_, count)| *count > 0).collect()
}

/// Asks all recorded questions of rooms of one server through a gateway that compares, beside a
/// homeserver that answers as recorded, but for the faults.
async fn compare_all(
    rooms: &[&RecordedRoom],
    forms: &Forms,
    faults: Faults<impl FnMut(Vec<String>) -> Vec<String>, impl FnOnce(&Context)>,
) -> Found {
    let Faults { mut change_answer, damage } = faults;
    let keys = rooms::keys();
    let federation = Federation::from_json(&keys.signing);
    let server = &rooms[0].requests[0].destination;
    let requests: Vec<&Request> = rooms.iter().flat_map(|it| &it.requests).collect();
    let answers = requests.iter().map(|request| {
        let pdus = forms.answer(request).expect("all events of the answer are recorded");
        (asked(request), answer(request, &change_answer(pdus)))
    });
    let url = homeserver(answers.collect()).await;
    let dir = tempfile::tempdir().unwrap();
    let shadow = ShadowOptions { concurrency: 256, ..ShadowOptions::new(Answerer::History) };
    let shown = shadow.results.clone();
    let services = Services::start_with(dir.path(), server, &keys.server, |options| {
        let fallback = FallbackOptions::from(url.parse::<axum::http::Uri>().unwrap());
        options.fallback = Some(FallbackOptions { first_of_origin: false, ..fallback });
        options.shadow = Some(shadow);
    })
    .await;
    for room in rooms {
        append_room(&services.cx, room);
    }
    damage(&services.cx);
    let ticking = feeder(format!("http://{}", services.history)).await;
    for request in &requests {
        let sent = FederationRequest {
            origin: &request.origin,
            destination: &request.destination,
            method: &request.method,
            uri: &request.uri,
            content: request.content.as_ref(),
        };
        let given = federation.send(services.gateway, sent).await;
        assert_eq!(given.status.as_u16(), request.expected.status, "{}", request.uri);
    }
    let number = u64::try_from(requests.len()).unwrap();
    within_async(PATIENCE, "all answers are compared", async {
        while results(&services.gateway_metrics).values().sum::<u64>() < number {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let results = results(&services.gateway_metrics);
    let report = report(&shown).await;
    ticking.abort();
    services.stop().await;
    Found { results, report }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_all_recorded_questions_no_difference_is_left_unexplained() {
    let rooms = rooms::all();
    let forms = Forms::of(&rooms);
    let mut servers: BTreeMap<&str, Vec<&RecordedRoom>> = BTreeMap::new();
    for room in &rooms {
        servers.entry(&room.requests[0].destination).or_default().push(room);
    }
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for rooms in servers.values() {
        let faults = Faults { change_answer: |pdus| pdus, damage: |_: &Context| {} };
        for (result, count) in compare_all(rooms, &forms, faults).await.results {
            *all.entry(result).or_default() += count;
        }
    }
    for (result, count) in &all {
        println!("{count:6} {result}");
    }
    let number: u64 = all.values().sum();
    assert_eq!(all.get("unexplained"), None, "{all:?}");
    assert!(all["same"] * 2 > number, "{all:?}");
    // A negative answer that is not final in time goes to the homeserver.
    assert!(all.get("not_compared").is_none_or(|it| it * 20 < number), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_that_is_not_redacted_is_found() {
    let rooms = rooms::bundled();
    let forms = Forms::of(&rooms);
    let room = rooms.iter().find(|it| it.name == "redactions-v11").unwrap();
    let whole: BTreeMap<String, BothForms> = both_forms(&rooms);
    // The event that is redacted in the most answers, and whole in none.
    let mut redacted: BTreeMap<String, u64> = BTreeMap::new();
    for pdu in room.requests.iter().filter_map(|it| forms.answer(it)).flatten() {
        if whole.get(&pdu).is_some_and(|it| it.redacted == pdu && it.full != pdu) {
            *redacted.entry(pdu).or_default() += 1;
        }
    }
    let (event, answers) = redacted.into_iter().max_by_key(|(_, count)| *count).unwrap();
    let full = &whole[&event].full;
    let change_answer = |pdus: Vec<String>| {
        pdus.into_iter().map(|it| if it == event { full.clone() } else { it }).collect()
    };
    let faults = Faults { change_answer, damage: |_: &Context| {} };
    let Found { results, .. } = compare_all(&[room], &forms, faults).await;
    println!("{results:?}; {answers} answers have the event");
    assert_eq!(results.get("unexplained"), Some(&answers), "{results:?}");
}

/// Forgets that events of a room are redacted. Returns their ids.
fn forget_redactions(cx: &Context, room: &RecordedRoom) -> Vec<String> {
    let decided = cx.store.decide(&room.header.room_id, None, |edit| {
        let mut redacted = Vec::new();
        for line in &room.lines {
            let event = edit.event_num(edit.room_num(), &line.event_id)?.unwrap();
            let mut node = edit.node(event)?;
            if node.flags.redacted {
                redacted.push(line.event_id.clone());
                node.flags.redacted = false;
                edit.put_node(event, node)?;
            }
        }
        Ok::<_, StoreError>(Decision::Commit(redacted))
    });
    decided.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_service_that_redacts_nothing_is_found() {
    let rooms = rooms::bundled();
    let forms = Forms::of(&rooms);
    let room = rooms.iter().find(|it| it.name == "redactions-v11").unwrap();
    let whole = both_forms(&rooms);
    let is_redacted =
        |pdu: &String| whole.get(pdu).is_some_and(|it| it.redacted == *pdu && it.full != *pdu);
    let answers = room.requests.iter().filter_map(|it| forms.answer(it));
    let with_redacted = answers.filter(|pdus| pdus.iter().any(is_redacted)).count();
    let mut redacted = Vec::new();
    let damage = |cx: &Context| redacted = forget_redactions(cx, room);
    let faults = Faults { change_answer: |pdus| pdus, damage };
    let Found { results, report } = compare_all(&[room], &forms, faults).await;
    println!("{results:?}; {with_redacted} answers have redacted events\n{report}");
    let unexplained = results["unexplained"];
    assert_eq!(unexplained, u64::try_from(with_redacted).unwrap(), "{results:?}");
    assert!(report.contains(&format!("{unexplained:>9}  UNEXPLAINED\n")), "{report}");
    let is_named = |id: &String| report.contains(&format!("    {id:?}: history has it as "));
    assert!(redacted.iter().any(is_named), "{redacted:?}: {report}");
    assert!(report.contains("Do not switch over"), "{report}");
}

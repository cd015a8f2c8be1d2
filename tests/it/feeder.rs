//! `FeederService` and the requests with bounds for the feeder: leases, ticks, final answers, cursors.

use std::time::Duration;

use backscroll::proto::v1::{
    self as pb, feed_request::Report, feed_response::Notice,
    feeder_service_client::FeederServiceClient,
};
use backscroll_testkit::within_async;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code::{Aborted, FailedPrecondition, InvalidArgument, PermissionDenied, Unavailable},
    Request, Response, Status, Streaming,
    transport::Channel,
};
use tonic_types::StatusExt as _;

use crate::support::{
    clients::{reason, request},
    failures::{Row, Stage, all, assert_failures, requester, unknown_room},
};

const PATIENCE: Duration = Duration::from_secs(60);
const EVE: &str = "@eve:three.example";

async fn client(stage: &Stage) -> FeederServiceClient<Channel> {
    FeederServiceClient::connect(stage.service.url()).await.unwrap()
}

fn started(feeder_name: &str) -> Report {
    Report::Started(pb::FeederStarted { feeder_name: feeder_name.to_owned() })
}

fn begun() -> Report {
    Report::TickBegun(pb::TickBegun {})
}

pub(crate) fn ended(ready: bool) -> Report {
    Report::TickEnded(pb::TickEnded { ready, not_ready_description: "importing".to_owned() })
}

/// A `Feed` stream.
pub(crate) struct Feed {
    to_service: mpsc::Sender<pb::FeedRequest>,
    notices: Streaming<pb::FeedResponse>,
    lease_id: String,
}

impl Feed {
    /// Opens a stream and sends reports; returns it before any response was read.
    async fn open(
        mut client: FeederServiceClient<Channel>,
        reports: impl IntoIterator<Item = Report>,
    ) -> Result<Self, Status> {
        let (to_service, requests) = mpsc::channel(16);
        for report in reports {
            to_service.send(pb::FeedRequest { report: Some(report) }).await.unwrap();
        }
        let opening = client.feed(ReceiverStream::new(requests)).await;
        Ok(Self { to_service, notices: opening?.into_inner(), lease_id: String::new() })
    }

    /// Opens a stream and becomes the feeder.
    pub(crate) async fn start(stage: &Stage) -> Result<Self, Status> {
        Self::start_over(client(stage).await).await
    }

    /// Opens a stream over a connection and becomes the feeder.
    pub(crate) async fn start_over(client: FeederServiceClient<Channel>) -> Result<Self, Status> {
        let mut feed = Self::open(client, [started("synapse")]).await?;
        let Notice::LeaseGranted(granted) = feed.notice().await? else { panic!("no lease") };
        assert!((1..=64).contains(&granted.lease_id.len()));
        feed.lease_id = granted.lease_id;
        Ok(feed)
    }

    /// The next notice, or the error that ends the stream.
    pub(crate) async fn notice(&mut self) -> Result<Notice, Status> {
        let message = within_async(PATIENCE, "a notice comes", self.notices.message()).await?;
        Ok(message.expect("the stream goes on").notice.expect("each response has one"))
    }

    pub(crate) async fn send(&self, report: Report) {
        self.to_service.send(pb::FeedRequest { report: Some(report) }).await.unwrap();
    }

    pub(crate) async fn begin_tick(&mut self) {
        self.send(begun()).await;
        while !matches!(self.notice().await.unwrap(), Notice::TickNoted(_)) {}
    }

    /// A whole tick. When this returns, the service knows that it has ended.
    pub(crate) async fn tick(&mut self, stage: &Stage, ready: bool) {
        self.begin_tick().await;
        self.send(ended(ready)).await;
        // Reports are taken in order, so the end has been noted when the next beginning is.
        self.begin_tick().await;
        self.send(ended(ready)).await;
        let feeder = client(stage).await.get_feeder(pb::GetFeederRequest {}).await.unwrap();
        assert!(feeder.into_inner().lag.is_some());
    }

    /// A call with the lease of this feeder.
    pub(crate) fn with_lease<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("backscroll-lease", self.lease_id.parse().unwrap());
        request
    }
}

fn bounds(max_lag: Duration, max_wait: Duration) -> Option<pb::FeederBounds> {
    let duration = |it: Duration| Some(it.try_into().unwrap());
    Some(pb::FeederBounds { max_lag: duration(max_lag), max_wait: duration(max_wait) })
}

/// What `three.example` asks; no user of it is in the room.
fn backfill(stage: &Stage, feeder_bounds: Option<pb::FeederBounds>) -> pb::BackfillRequest {
    pb::BackfillRequest {
        room_id: stage.room_id(),
        requester: requester("three.example"),
        event_ids: vec![stage.last()],
        limit: Some(1),
        omit_event_ids: false,
        feeder_bounds,
    }
}

/// A value beside the reason of an error.
fn metadata(status: &Status, name: &str) -> Option<String> {
    status.get_details_error_info()?.metadata.get(name).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_feeder_and_what_it_left_running_changes_nothing_more() {
    let stage = Stage::start().await;
    let feed = Feed::start(&stage).await.unwrap();
    let second = Feed::start(&stage).await.err().unwrap();
    assert_eq!(reason(&second), (FailedPrecondition, "FEEDER_ACTIVE".to_owned()));
    let erase = || pb::SetUserErasedRequest { user_id: EVE.to_owned(), erased: true };
    let ingest = &stage.clients.ingest;
    ingest.clone().set_user_erased(feed.with_lease(erase())).await.unwrap();
    let Feed { to_service, mut notices, lease_id } = feed;
    drop(to_service);
    // The stream has ended when the lease has.
    within_async(PATIENCE, "the stream ends", async {
        while notices.message().await.unwrap().is_some() {}
    })
    .await;
    let next = Feed::start(&stage).await.unwrap();
    assert_ne!(lease_id, next.lease_id);
    let old = Feed { lease_id, to_service: mpsc::channel(1).0, notices };
    let put = || pb::PutCursorRequest { feeder_name: "synapse".to_owned(), cursor: "1".into() };
    let served = || pb::SetRoomsServedRequest {
        room_ids: vec![stage.room_id()],
        not_served_reason: pb::NotServedReason::Importing.into(),
    };
    let ban = pb::SetBanRedactionRequest {
        room_id: stage.room_id(),
        user_id: EVE.to_owned(),
        ban_event_id: stage.last(),
        before_arrival: None,
    };
    let lost = (Aborted, "LEASE_LOST".to_owned());
    let of_old = [
        ingest.clone().set_user_erased(old.with_lease(erase())).await.err(),
        ingest.clone().set_rooms_served(old.with_lease(served())).await.err(),
        ingest.clone().set_ban_redaction(old.with_lease(ban)).await.err(),
        client(&stage).await.put_cursor(old.with_lease(put())).await.err(),
    ];
    for error in of_old {
        assert_eq!(reason(&error.unwrap()), lost);
    }
    let event = stage.room.message(EVE, "late").after(stage.events.last()).finish();
    let append = tokio_stream::iter([request(&stage.room, &event.pdu)]);
    let purge = pb::PurgeHistoryRequest {
        room_id: stage.room_id(),
        event_id: stage.last(),
        ..pb::PurgeHistoryRequest::default()
    };
    let remove = pb::RemoveEventsRequest {
        room_id: stage.room_id(),
        event_ids: vec![stage.last()],
        keep_as_outliers: false,
    };
    let delete = pb::DeleteRoomRequest { room_id: stage.room_id(), may_return: true };
    let streams = [
        all(ingest.clone().append_events(old.with_lease(append)).await).await.err(),
        all(ingest.clone().purge_history(old.with_lease(purge)).await).await.err(),
        all(ingest.clone().remove_events(old.with_lease(remove)).await).await.err(),
        all(ingest.clone().delete_room(old.with_lease(delete)).await).await.err(),
    ];
    for error in streams {
        assert_eq!(reason(&error.unwrap()), lost);
    }
    let (_, held) = stage.clients.clone().room(&stage.room_id()).await.unwrap();
    assert_eq!(held.len(), stage.events.len());
    ingest.clone().set_rooms_served(next.with_lease(served())).await.unwrap();
    client(&stage).await.put_cursor(next.with_lease(put())).await.unwrap();
    // Without a lease, nothing is checked.
    ingest.clone().set_user_erased(erase()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_the_rules_ends() {
    let stage = Stage::start().await;
    for (reports, expected) in [
        (vec![begun()], "FEED_INVALID"),
        (vec![started("Synapse")], "FEEDER_NAME_INVALID"),
        (vec![started("")], "FEEDER_NAME_INVALID"),
        (vec![started("synapse"), started("synapse")], "FEED_INVALID"),
        (vec![started("synapse"), ended(true)], "FEED_INVALID"),
        (vec![started("synapse"), begun(), ended(true), ended(true)], "FEED_INVALID"),
    ] {
        let mut feed = Feed::open(client(&stage).await, reports.clone()).await.unwrap();
        let error = loop {
            match feed.notice().await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(reason(&error), (InvalidArgument, expected.to_owned()), "{reports:?}");
    }
    let feed = Feed::open(client(&stage).await, []).await.unwrap();
    feed.to_service.send(pb::FeedRequest { report: None }).await.unwrap();
    let Feed { mut notices, .. } = feed;
    let error = notices.message().await.unwrap_err();
    assert_eq!(reason(&error), (InvalidArgument, "FEED_INVALID".to_owned()));
    // Each of these leases has ended with its stream.
    Feed::start(&stage).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_refused_while_the_feeder_does_not_keep_its_bounds() {
    let stage = Stage::start().await;
    let history = &stage.clients.history;
    let ask = async |max_lag| {
        let request = pb::BackfillRequest {
            requester: requester("two.example"),
            ..backfill(&stage, bounds(max_lag, Duration::ZERO))
        };
        history.clone().backfill(request).await.map(Response::into_inner)
    };
    let refused = async |max_lag| {
        let status = ask(max_lag).await.unwrap_err();
        assert_eq!(reason(&status), (Unavailable, "FEEDER_BEHIND".to_owned()));
        metadata(&status, "feeder").unwrap()
    };
    assert_eq!(refused(PATIENCE).await, "AWAY");
    let mut feed = Feed::start(&stage).await.unwrap();
    assert_eq!(refused(PATIENCE).await, "NOT_READY");
    feed.tick(&stage, false).await;
    assert_eq!(refused(PATIENCE).await, "NOT_READY");
    let status = client(&stage).await.get_feeder(pb::GetFeederRequest {}).await.unwrap();
    let status = status.into_inner();
    assert_eq!((&*status.feeder_name, status.ready), ("synapse", false));
    assert_eq!(status.not_ready_description, "importing");
    feed.tick(&stage, true).await;
    assert_eq!(refused(Duration::ZERO).await, "BEHIND");
    let answer = ask(PATIENCE).await.unwrap();
    assert_eq!((answer.event_ids.len(), answer.not_final), (1, false));
    // Nobody who sets no bounds is refused.
    let request = pb::BackfillRequest { feeder_bounds: None, ..backfill(&stage, None) };
    let status = history.clone().backfill(request).await.unwrap_err();
    assert_eq!((reason(&status).1.as_str(), metadata(&status, "final")), ("NOT_ALLOWED", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_negative_answer_waits_for_the_next_tick_and_is_asked_anew() {
    let stage = Stage::start().await;
    let mut feed = Feed::start(&stage).await.unwrap();
    feed.tick(&stage, true).await;
    // This tick has begun before the request: it must not make the answer final.
    feed.begin_tick().await;
    let ask = |event_ids: Vec<String>| {
        let mut history = stage.clients.history.clone();
        let request = pb::BackfillRequest {
            event_ids,
            ..backfill(&stage, bounds(PATIENCE, Duration::from_secs(2)))
        };
        tokio::spawn(async move { history.backfill(request).await.map(Response::into_inner) })
    };
    let joined = stage.room.member(EVE, EVE, "join").after(stage.events.last()).finish();
    let waiting = ask(vec![joined.event_id.clone()]);
    assert!(matches!(feed.notice().await.unwrap(), Notice::TickWanted(_)));
    feed.send(ended(true)).await;
    feed.begin_tick().await;
    let append = request(&stage.room, &joined.pdu);
    stage.clients.clone().append(vec![append]).await.unwrap();
    feed.send(ended(true)).await;
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!((answer.event_ids, answer.not_final), (vec![joined.event_id.clone()], false));
    assert_eq!(answer.unknown_event_ids, Vec::<String>::new());

    // What no tick brings is unknown for good.
    let waiting = ask(vec!["$unknown".to_owned(), joined.event_id.clone()]);
    assert!(matches!(feed.notice().await.unwrap(), Notice::TickWanted(_)));
    feed.tick(&stage, true).await;
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!((answer.event_ids, answer.not_final), (vec![joined.event_id], false));
    assert_eq!(answer.unknown_event_ids, ["$unknown"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_negative_answer_says_whether_it_is_final() {
    let stage = Stage::start().await;
    let mut feed = Feed::start(&stage).await.unwrap();
    feed.tick(&stage, true).await;
    let ask = |room_id: String, max_wait| {
        let mut history = stage.clients.history.clone();
        let request =
            pb::BackfillRequest { room_id, ..backfill(&stage, bounds(PATIENCE, max_wait)) };
        tokio::spawn(async move { history.backfill(request).await.unwrap_err() })
    };
    for (room_id, expected) in [(stage.room_id(), "NOT_ALLOWED"), (unknown_room(), "ROOM_NOT_HELD")]
    {
        // No tick comes within this time, or none is waited for.
        for max_wait in [Duration::from_millis(1), Duration::ZERO] {
            let status = ask(room_id.clone(), max_wait).await.unwrap();
            assert_eq!(reason(&status), (PermissionDenied, expected.to_owned()));
            assert_eq!(metadata(&status, "final").as_deref(), Some("false"));
        }
        // The requests above have left a tick wanted.
        feed.tick(&stage, true).await;
        let waiting = ask(room_id, Duration::from_secs(2));
        while !matches!(feed.notice().await.unwrap(), Notice::TickWanted(_)) {}
        feed.tick(&stage, true).await;
        let status = waiting.await.unwrap();
        assert_eq!(reason(&status), (PermissionDenied, expected.to_owned()));
        assert_eq!(metadata(&status, "final").as_deref(), Some("true"));
    }
    let missing = pb::GetMissingEventsRequest {
        room_id: stage.room_id(),
        requester: requester("two.example"),
        latest_events: vec!["$unknown".to_owned(), stage.last()],
        feeder_bounds: bounds(PATIENCE, Duration::ZERO),
        ..pb::GetMissingEventsRequest::default()
    };
    let answer = stage.clients.history.clone().get_missing_events(missing).await.unwrap();
    let answer = answer.into_inner();
    assert_eq!((answer.unknown_event_ids, answer.not_final), (vec!["$unknown".to_owned()], true));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outlier_counts_as_unknown_and_an_internal_caller_learns_it_too() {
    let mut stage = Stage::start().await;
    let outlier = stage.room.message(EVE, "afar").after(stage.events.last()).finish();
    let append = pb::AppendEventsRequest { outlier: true, ..request(&stage.room, &outlier.pdu) };
    stage.clients.append(vec![append]).await.unwrap();
    let too_long = format!("${}", "x".repeat(1_020));
    let request = pb::BackfillRequest {
        requester: None,
        event_ids: vec!["$none".to_owned(), stage.last(), outlier.event_id.clone(), too_long],
        ..backfill(&stage, None)
    };
    let answer = stage.clients.history.clone().backfill(request).await.unwrap().into_inner();
    assert_eq!(answer.event_ids, [stage.last()]);
    assert_eq!(answer.unknown_event_ids, ["$none".to_owned(), outlier.event_id]);
    assert!(!answer.not_final, "the request had no bounds");
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_are_kept_by_name_and_bounded() {
    let stage = Stage::start().await;
    let feeder = client(&stage).await;
    let put = |feeder_name: &str, cursor: Vec<u8>| pb::PutCursorRequest {
        feeder_name: feeder_name.to_owned(),
        cursor: cursor.into(),
    };
    let get = async |feeder_name: &str| {
        let request = pb::GetCursorRequest { feeder_name: feeder_name.to_owned() };
        feeder.clone().get_cursor(request).await.unwrap().into_inner().cursor.to_vec()
    };
    assert_eq!(get("synapse").await, b"");
    for cursor in [b"1".to_vec(), vec![0; 64 * 1024]] {
        feeder.clone().put_cursor(put("synapse", cursor.clone())).await.unwrap();
        assert_eq!(get("synapse").await, cursor);
    }
    let rows = [
        Row::new(put("synapse", vec![0; 64 * 1024 + 1]), InvalidArgument, "CURSOR_INVALID"),
        Row::new(put("a b", vec![0]), InvalidArgument, "FEEDER_NAME_INVALID"),
        Row::new(put(&"a".repeat(65), vec![0]), InvalidArgument, "FEEDER_NAME_INVALID"),
    ];
    assert_failures(rows, async |request| feeder.clone().put_cursor(request).await).await;
    for number in 1..64 {
        feeder.clone().put_cursor(put(&format!("f{number}"), vec![1])).await.unwrap();
    }
    let row = Row::new(put("more", vec![1]), InvalidArgument, "CURSOR_INVALID");
    assert_failures([row], async |request| feeder.clone().put_cursor(request).await).await;
    feeder.clone().put_cursor(put("synapse", Vec::new())).await.unwrap();
    let listed = feeder.clone().list_cursors(pb::ListCursorsRequest {}).await.unwrap();
    let listed = listed.into_inner().feeder_names;
    assert_eq!((listed.len(), listed.contains(&"synapse".to_owned())), (63, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_in_malformed_metadata_is_that_of_no_feeder() {
    let stage = Stage::start().await;
    let feed = Feed::start(&stage).await.unwrap();
    let erase = pb::SetUserErasedRequest { user_id: EVE.to_owned(), erased: true };
    let mut twice = feed.with_lease(erase.clone());
    twice.metadata_mut().append("backscroll-lease", feed.lease_id.parse().unwrap());
    let mut empty = Request::new(erase);
    empty.metadata_mut().insert("backscroll-lease", "".parse().unwrap());
    for request in [twice, empty] {
        let error = stage.clients.ingest.clone().set_user_erased(request).await.unwrap_err();
        assert_eq!(reason(&error), (Aborted, "LEASE_LOST".to_owned()));
    }
}

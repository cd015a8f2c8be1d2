//! The database is away: requests wait for it within their deadline and within the time that the service
//! has patience; then they are refused, and health says so. Afterwards all is well without help.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use backscroll::proto::v1 as pb;
use backscroll_testkit::{
    Event, Room,
    cutter::{Cutter, Mode},
    postgres::Postgres,
    within_async,
};
use tonic::{Code, Request};
use tonic_health::pb::health_check_response::ServingStatus;

use super::{PATIENCE, postgres, prepare_at};
use crate::support::{
    clients::{Clients, request},
    process::Process,
};

const ALICE: &str = "@alice:one.example";
/// What `--store-patience` is told, in seconds.
const STORE_PATIENCE: u64 = 5;
/// How much later than it should a busy machine may answer.
const SLACK: Duration = Duration::from_secs(4);

struct Stage {
    postgres: Mutex<Postgres>,
    cutter: Cutter,
    service: Process,
    clients: Clients,
    room: Room,
    create: Event,
}

impl Stage {
    async fn start() -> Option<Self> {
        let postgres = postgres()?;
        postgres.sql("postgres", "create database store");
        let cutter = Cutter::start(postgres.address());
        let place = format!("postgres://owner@{}/store", cutter.address());
        prepare_at(&place);
        let patience = STORE_PATIENCE.to_string();
        let service = Process::start_over(&place, &["--store-patience", &patience]);
        let mut clients = Clients::connect(&service).await;
        let (room, create) = Room::new("10", ALICE);
        clients.append(vec![request(&room, &create.pdu)]).await.unwrap();
        let postgres = Mutex::new(postgres);
        Some(Self { postgres, cutter, service, clients, room, create })
    }

    /// Asks for the room's only event, which is in memory: the database is asked nevertheless.
    async fn ask(&self, deadline: Option<Duration>) -> Result<usize, Code> {
        let mut request = Request::new(pb::BatchGetEventsRequest {
            room_id: self.room.room_id.clone(),
            event_ids: vec![self.create.event_id.clone()],
        });
        if let Some(deadline) = deadline {
            request.set_timeout(deadline);
        }
        let answer = self.clients.clone().history.batch_get_events(request).await;
        answer.map(|it| it.into_inner().events.len()).map_err(|it| it.code())
    }

    async fn append(&self, body: &str) -> Result<(), Code> {
        let event = self.room.message(ALICE, body).after([&self.create]).finish();
        let requests = vec![request(&self.room, &event.pdu)];
        self.clients.clone().append(requests).await.map(drop).map_err(|it| it.code())
    }

    async fn health(&self, probe: &str) -> ServingStatus {
        self.clients.clone().health(probe).await
    }

    /// Waits until a probe has this answer.
    async fn becomes(&self, probe: &str, status: ServingStatus) {
        let asked = async {
            while self.health(probe).await != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within_async(PATIENCE, "health changes", asked).await;
    }

    /// The database is away now: checks what callers and probes get.
    async fn assert_away(&self) {
        let begun = Instant::now();
        // A deadline that ends before the patience does.
        let refused = self.ask(Some(Duration::from_secs(1))).await.unwrap_err();
        assert!([Code::Unavailable, Code::DeadlineExceeded].contains(&refused), "{refused}");
        assert!(begun.elapsed() < Duration::from_secs(1) + SLACK, "{:?}", begun.elapsed());
        let (asked, appended) = tokio::join!(self.ask(None), self.append("while it is away"));
        assert_eq!((asked, appended), (Err(Code::Unavailable), Err(Code::Unavailable)));
        let longest = Duration::from_secs(1 + STORE_PATIENCE) + 2 * SLACK;
        assert!(begun.elapsed() < longest, "{:?}", begun.elapsed());
        for probe in ["", "HistoryService", "IngestService"] {
            self.becomes(probe, ServingStatus::NotServing).await;
        }
        assert_eq!(self.health("liveness").await, ServingStatus::Serving);
    }

    /// The database is there again: checks that the service needs no help.
    async fn assert_back(&self) {
        for probe in ["", "HistoryService", "IngestService", "liveness"] {
            self.becomes(probe, ServingStatus::Serving).await;
        }
        assert_eq!(self.ask(None).await, Ok(1));
        assert_eq!(self.append("it is back").await, Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_a_database_that_is_away_and_are_refused_in_the_end() {
    let Some(stage) = Stage::start().await else { return };
    let database = || stage.postgres.lock().unwrap();
    // It is away for a shorter time than the service has patience.
    database().stop();
    let come_back = async {
        // By now the requests wait. If they did not, the answers would be right all the same.
        tokio::time::sleep(Duration::from_millis(300)).await;
        tokio::task::block_in_place(|| database().resume());
    };
    let (asked, appended, ()) = tokio::join!(stage.ask(None), stage.append("soon"), come_back);
    assert_eq!((asked, appended), (Ok(1), Ok(())));
    stage.assert_back().await;
    database().stop();
    stage.assert_away().await;
    database().resume();
    stage.assert_back().await;
    // Nothing answers, and nothing says that the connection has ended.
    stage.cutter.set_mode(Mode::Silent);
    stage.assert_away().await;
    stage.cutter.set_mode(Mode::Forward);
    stage.assert_back().await;
    let ended = stage.service.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
}

//! A homeserver, a history service and a follower between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use backscroll::proto::v1::{
    GetFeederRequest, ListEventsRequest, ListRoomsNotServedRequest, NotServedReason, Verdict,
};
use backscroll_testkit::postgres::Postgres;
use tempfile::TempDir;
use tonic::Code;

use crate::{
    history::{Clients, History},
    homeserver::Homeserver,
};

/// Longest time until the follower has done something.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is compared of an event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HeldEvent {
    pub(crate) pdu: String,
    pub(crate) arrival: i64,
    pub(crate) outlier: bool,
    pub(crate) verdict: Verdict,
}

/// Events by room and id.
pub(crate) type Held = BTreeMap<(String, String), HeldEvent>;

/// A follower in a process of its own. Killed when dropped.
pub(crate) struct Follower {
    child: Child,
    log: PathBuf,
}

impl Follower {
    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal to it, such as `-STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// All three programs.
pub(crate) struct World {
    pub(crate) homeserver: Homeserver,
    pub(crate) postgres: Postgres,
    history: Option<History>,
    history_url: String,
    pub(crate) clients: Clients,
    follower: Option<Follower>,
    dir: TempDir,
}

impl World {
    /// Starts the homeserver and the history service. `None` if PostgreSQL is not installed.
    pub(crate) async fn start() -> Option<Self> {
        let postgres = Postgres::start()?;
        let homeserver = Homeserver::start(&postgres).await;
        let dir = tempfile::tempdir().unwrap();
        let history = History::start(&dir.path().join("store"), "127.0.0.1:0").await;
        Some(Self {
            homeserver,
            postgres,
            history_url: history.url(),
            clients: Clients::connect(&history.url()).await,
            history: Some(history),
            follower: None,
            dir,
        })
    }

    /// Stops the history service.
    pub(crate) async fn stop_history(&mut self) {
        self.history.take().unwrap().stop().await;
    }

    /// Starts the history service again, over the same store and at the same address.
    pub(crate) async fn start_history(&mut self) {
        let address = self.history_url.strip_prefix("http://").unwrap();
        self.history = Some(History::start(&self.dir.path().join("store"), address).await);
        self.clients = Clients::connect(&self.history_url).await;
    }

    /// The command that follows.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll-synapse"));
        command.env_clear().stdin(Stdio::null());
        command.args(["follow", "--history", &self.history_url, "--poll", "20", "--database"]);
        command.arg(self.postgres.url("reader", "synapse"));
        command
    }

    /// Starts a follower.
    pub(crate) fn follow(&mut self) {
        self.follow_with(&[]);
    }

    /// Starts a follower with more flags.
    pub(crate) fn follow_with(&mut self, flags: &[&str]) {
        self.follower = Some(self.another_follower("follower.log", flags));
    }

    /// Starts a follower that the caller holds, with a log of this name.
    pub(crate) fn another_follower(&self, log: &str, flags: &[&str]) -> Follower {
        let log = self.dir.path().join(log);
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = self.command().args(flags).stderr(file).spawn().unwrap();
        Follower { child, log }
    }

    /// Kills the follower.
    pub(crate) fn kill(&mut self) {
        drop(self.follower.take().unwrap());
    }

    /// What the follower has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("follower.log")).unwrap_or_default()
    }

    /// A folder for files of the test.
    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until a condition holds.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        mut holds: impl AsyncFnMut(&mut Self) -> bool,
    ) {
        let start = Instant::now();
        while !holds(self).await {
            if start.elapsed() > PATIENCE {
                let log = self.log();
                panic!(
                    "after {PATIENCE:?} still waiting until {what}; the follower logged:\n{log}"
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the history service holds what the homeserver holds, and serves all rooms but these.
    pub(crate) async fn until_equal(&mut self, not_served: &[&str]) {
        let expected: BTreeSet<String> = not_served.iter().map(|it| (*it).to_owned()).collect();
        self.until("both are equal", async |world| {
            let served: BTreeSet<String> = world.not_served().await.into_keys().collect();
            served == expected && world.held().await == world.wanted(&expected).await
        })
        .await;
    }

    /// What the homeserver holds, without some rooms.
    pub(crate) async fn wanted(&self, without: &BTreeSet<String>) -> Held {
        let sql = "select e.room_id, e.event_id, j.json, e.stream_ordering, e.outlier, \
                   e.rejection_reason is not null, j.internal_metadata from events e \
                   join event_json j using (event_id)";
        let rows = self.homeserver.client.query(sql, &[]).await.unwrap();
        let events = rows.iter().filter_map(|row| {
            let room_id: String = row.get(0);
            let (rejected, notes): (bool, String) = (row.get(5), row.get(6));
            let verdict = match (rejected, notes.contains("true")) {
                (true, _) => Verdict::Rejected,
                (false, true) => Verdict::SoftFailed,
                (false, false) => Verdict::Accepted,
            };
            let event =
                HeldEvent { pdu: row.get(2), arrival: row.get(3), outlier: row.get(4), verdict };
            (!without.contains(&room_id)).then(|| ((room_id, row.get(1)), event))
        });
        events.collect()
    }

    /// What the history service holds.
    pub(crate) async fn held(&mut self) -> Held {
        let rows = self.homeserver.client.query("select room_id from rooms", &[]).await.unwrap();
        let mut held = Held::new();
        for room_id in rows.iter().map(|it| it.get::<_, String>(0)) {
            let mut page_token = String::new();
            loop {
                let request =
                    ListEventsRequest { room_id: room_id.clone(), page_token, ..<_>::default() };
                let page = match self.clients.history.list_events(request).await {
                    Ok(page) => page.into_inner(),
                    Err(status) if status.code() == Code::NotFound => break,
                    Err(status) => panic!("{status}"),
                };
                for event in page.events {
                    let held_event = HeldEvent {
                        pdu: String::from_utf8(event.pdu.to_vec()).unwrap(),
                        arrival: event.arrival,
                        outlier: event.outlier,
                        verdict: event.verdict(),
                    };
                    held.insert((room_id.clone(), event.event_id), held_event);
                }
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
        }
        held
    }

    /// The rooms that are not served, and why.
    pub(crate) async fn not_served(&mut self) -> BTreeMap<String, NotServedReason> {
        let request = ListRoomsNotServedRequest::default();
        let rooms =
            self.clients.admin.list_rooms_not_served(request).await.unwrap().into_inner().rooms;
        rooms.into_iter().map(|it| (it.room_id.clone(), it.not_served_reason())).collect()
    }

    /// Whether the follower reports that the rooms that are served are complete.
    pub(crate) async fn is_ready(&mut self) -> bool {
        self.clients.feeder.get_feeder(GetFeederRequest {}).await.unwrap().into_inner().ready
    }
}

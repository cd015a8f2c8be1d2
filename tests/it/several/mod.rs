//! Several history services over one PostgreSQL: they are one service. The services are processes of the
//! real program. Without PostgreSQL the tests say so and pass.

mod away;
mod kills;
mod picture;
mod races;
mod recorded;
mod servers;
mod staleness;

use std::{env, time::Duration};

use backscroll_testkit::postgres::{Postgres, Setup};

use crate::support::process::{self, Process};

/// How long a failure of the database may be noticed, at most, after it has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a server to whose commits a store can trust.
fn postgres() -> Option<Postgres> {
    Postgres::start_with(&Setup::durable())
}

/// Where empty stores are made.
enum Databases {
    /// In databases of a server that is started for the test.
    Own(Postgres),
    /// In schemas of the database whose URL is in `BACKSCROLL_TEST_POSTGRES`.
    Given(String),
}

impl Databases {
    /// The given database, or a new server. `None` if there is neither.
    fn find() -> Option<Self> {
        match env::var_os("BACKSCROLL_TEST_POSTGRES") {
            Some(url) => Some(Self::Given(url.into_string().unwrap())),
            None => postgres().map(Self::Own),
        }
    }

    /// Makes an empty store; returns its place. The name is another one each time.
    fn prepare(&self, name: &str) -> String {
        let place = match self {
            Self::Own(postgres) => {
                postgres.sql("postgres", &format!("create database {name}"));
                postgres.tcp_url("owner", name)
            }
            // An earlier run may have left stores there.
            Self::Given(url) => {
                format!("{url}?options=-csearch_path%3D{name}_{}", std::process::id())
            }
        };
        prepare_at(&place);
        place
    }
}

/// Makes an empty store in an empty database.
fn prepare_at(place: &str) {
    let citus = env::var_os("BACKSCROLL_TEST_CITUS").map(|_| "--citus");
    process::stdout(process::run(["prepare", "--store", place].into_iter().chain(citus)));
}

/// Starts several services over one store.
fn start(place: &str, count: usize) -> Vec<Process> {
    (0..count).map(|_| Process::start_over(place, &["--cache-mib", "16"])).collect()
}

/// Lets a service verify the whole store.
///
/// # Panics
/// When there is a fault.
fn assert_verified(service: &Process) {
    let verified = service.command(&["verify", "--online", "--max-cpu-percent", "100"]);
    let said = process::stdout(verified);
    assert!(said.ends_with(" 0 faults\n"), "{said}");
}

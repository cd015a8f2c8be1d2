//! Several history services over one PostgreSQL: they are one service. The services are processes of the
//! real program. Without PostgreSQL the tests say so and pass.

mod away;
mod kills;
mod picture;
mod races;
mod recorded;
mod servers;
mod staleness;

use std::time::Duration;

use backscroll_testkit::postgres::{Postgres, Setup};

use crate::support::process::{self, Process};

/// How long a failure of the database may be noticed, at most, after it has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a server to whose commits a store can trust.
fn postgres() -> Option<Postgres> {
    Postgres::start_with(&Setup::durable())
}

/// Makes an empty store in a database of its own, which does not exist; returns its place.
fn prepare(postgres: &Postgres, database: &str) -> String {
    postgres.sql("postgres", &format!("create database {database}"));
    let place = postgres.tcp_url("owner", database);
    prepare_at(&place);
    place
}

/// Makes an empty store in an empty database.
fn prepare_at(place: &str) {
    process::stdout(process::run(["prepare", "--store", place]));
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

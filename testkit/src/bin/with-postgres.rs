//! Runs a command while a PostgreSQL server for tests runs:
//!
//! ```text
//! cargo run -p backscroll-testkit --bin with-postgres -- cargo test -p backscroll
//! ```
//!
//! The command gets `BACKSCROLL_TEST_ENGINE=postgres`, and in `BACKSCROLL_TEST_POSTGRES` the URL of an
//! empty database: the suites of the history service then keep each store in a schema of its own there.
//! The exit code is that of the command. Without PostgreSQL a line says so, and the exit code is 0.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    env,
    process::{Command, ExitCode},
};

use backscroll_testkit::postgres::{Postgres, Setup};

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let Some(program) = args.next() else {
        eprintln!("usage: with-postgres COMMAND…");
        return ExitCode::from(2);
    };
    // Tests open many stores at the same time, each with connections of its own.
    let setup = Setup::durable().with("max_connections", "1000");
    let Some(postgres) = Postgres::start_with(&setup) else { return ExitCode::SUCCESS };
    postgres.sql("postgres", "create database test");
    let mut command = Command::new(program);
    command.args(args).env("BACKSCROLL_TEST_ENGINE", "postgres");
    command.env("BACKSCROLL_TEST_POSTGRES", postgres.tcp_url("owner", "test"));
    let status = command.status().unwrap();
    // A signal has no code.
    ExitCode::from(status.code().and_then(|it| u8::try_from(it).ok()).unwrap_or(1))
}

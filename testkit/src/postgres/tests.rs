//! What tests rely on when they kill servers.

use super::*;

#[test]
fn a_server_is_stopped_killed_and_started_again() {
    let Some(mut postgres) = Postgres::start_with(&Setup::durable().with("work_mem", "5MB")) else {
        return;
    };
    let sql = |postgres: &Postgres, sql: &str| postgres.sql("postgres", sql).trim().to_owned();
    assert_eq!(sql(&postgres, "show fsync"), "on");
    assert_eq!(sql(&postgres, "show work_mem"), "5MB");
    sql(&postgres, "create table t (n int); insert into t values (1)");
    postgres.crash();
    assert_eq!(sql(&postgres, "select n from t"), "1");
    assert!(!postgres.kill_backend(|_| unreachable!()));
    postgres.kill();
    postgres.resume();
    assert_eq!(sql(&postgres, "select n from t"), "1");
    let dir = postgres.dir.clone();
    drop(postgres);
    assert!(!dir.exists());
}

#[test]
fn a_synchronous_standby_has_every_commit_and_becomes_a_primary() {
    let setup = Setup::durable().with("synchronous_standby_names", "second");
    let Some(mut first) = Postgres::start_with(&setup) else { return };
    let second = first.standby("second");
    let states = "select application_name, sync_state from pg_stat_replication";
    within(PATIENCE, "the standby follows", || first.sql("postgres", states) == "second|sync\n");
    first.sql("postgres", "create table t (n int); insert into t values (1)");
    first.kill();
    second.promote();
    assert_eq!(second.sql("postgres", "select n from t; show synchronous_standby_names"), "1\n\n");
    second.sql("postgres", "insert into t values (2)");
}

#[test]
fn a_server_ends_when_the_process_that_started_it_dies() {
    let Some(mut postgres) = Postgres::start() else { return };
    let mut guard = postgres.running.take().unwrap();
    guard.forget_line();
    guard.wait();
    within(PATIENCE, "the folder is removed", || !postgres.dir.exists());
}

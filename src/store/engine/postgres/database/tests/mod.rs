//! The connections, over real servers: checks at opening, transactions, retries, failovers.

mod opening;

use std::fs;

use backscroll_testkit::{
    cutter::{Cutter, Mode},
    postgres::{Postgres, Setup},
    within::within,
};

use super::*;
use crate::store::{PostgresPlace, Preparation, StoreError, prepare};

/// How long a test waits for a database that does not answer.
const PATIENCE: Duration = Duration::from_secs(20);

fn place(url: &str) -> PostgresPlace {
    url.parse().unwrap()
}

/// A place whose hosts are servers or proxies of this machine.
fn place_at<const N: usize>(addresses: [std::net::SocketAddr; N]) -> PostgresPlace {
    let hosts = addresses.map(|it| it.to_string()).join(",");
    place(&format!("postgres://owner@{hosts}/postgres?connect_timeout=2"))
}

fn make_tables(
    place: &PostgresPlace,
    preparation: &Preparation,
) -> Result<Vec<String>, StoreError> {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(prepare(place, preparation))
}

fn open(place: &PostgresPlace) -> Result<Database, StoreError> {
    Database::open_checked(place, PATIENCE)
}

fn refusal(place: &PostgresPlace) -> String {
    open(place).err().expect("it is refused").to_string()
}

/// A server with tables.
fn prepared() -> Option<Postgres> {
    let server = Postgres::start_with(&Setup::durable())?;
    make_tables(&place_at([server.address()]), &Preparation::default()).unwrap();
    Some(server)
}

fn word(key: u8) -> Param {
    Param::Bytes(Some(vec![key]))
}

fn put(key: u8, value: u8) -> Statement {
    let sql = "insert into store_word (key, value) values ($1, $2) \
               on conflict (key) do update set value = excluded.value";
    Statement::new(sql, vec![word(key), word(value)])
}

fn insert(key: u8, value: u8) -> Statement {
    let sql = "insert into store_word (key, value) values ($1, $2)";
    Statement::new(sql, vec![word(key), word(value)])
}

/// Changes a value, if it is `old`.
fn guarded(key: u8, old: u8, new: u8) -> Statement {
    let sql =
        "update store_word set value = case when value = $2 then $3::bytea end where key = $1";
    Statement::new(sql, vec![word(key), word(old), word(new)])
}

fn words() -> Statement {
    Statement::new("select key, value from store_word order by key", Vec::new())
}

/// All words: each key and its value.
fn read(database: &Database) -> Vec<[u8; 2]> {
    let rows = database.flight(vec![words()]).unwrap().rows.remove(0);
    let byte = |row: &Row, column| row.get::<_, Vec<u8>>(column)[0];
    rows.iter().map(|it| [byte(it, 0), byte(it, 1)]).collect()
}

#[test]
fn a_transaction_is_applied_whole_or_not_at_all() {
    let Some(server) = prepared() else { return };
    let database = open(&place_at([server.address()])).unwrap();
    let transact = |statements| database.transact(statements).unwrap();
    assert_eq!(transact(vec![put(1, 1), put(2, 1)]), Transacted::Done);
    // The guard holds, and the last statement sees what the others did.
    assert_eq!(transact(vec![guarded(1, 1, 2), put(2, 2)]), Transacted::Done);
    assert_eq!(read(&database), [[1, 2], [2, 2]]);
    assert_eq!(transact(vec![put(3, 3), guarded(1, 1, 9), put(2, 9)]), Transacted::GuardFailed);
    assert_eq!(transact(vec![put(3, 3), insert(1, 9)]), Transacted::GuardFailed);
    assert_eq!(read(&database), [[1, 2], [2, 2]]);
    // A statement that is wrong is no conflict.
    let wrong = Statement::new("select 1 from nowhere", Vec::new());
    let failure = database.transact(vec![put(1, 9), wrong]).unwrap_err();
    assert!(matches!(failure, StoreError::NotPrepared(_)), "{failure}");
    assert_eq!(read(&database), [[1, 2], [2, 2]]);
    assert_eq!(transact(vec![put(1, 3)]), Transacted::Done);
}

/// A statement that the server refuses with a code.
fn refused_with(code: &str) -> Statement {
    let sql = format!("do $$ begin raise exception 'said' using errcode = '{code}'; end $$");
    Statement::new(sql, Vec::new())
}

#[test]
fn what_the_server_refuses_is_told_by_what_can_be_done() {
    use EngineError::{Away, Damaged, Failed};
    let Some(server) = prepared() else { return };
    let database = open(&place_at([server.address()])).unwrap();
    let transact = |code| database.transact(vec![put(1, 1), refused_with(code)]).unwrap_err();
    assert!(matches!(transact("53100"), StoreError::DatabaseFull(_)));
    assert!(matches!(transact("XX001"), StoreError::Engine(Damaged(_))));
    assert!(matches!(transact("42501"), StoreError::NotPrepared(_)));
    assert!(matches!(transact("XX000"), StoreError::Engine(Failed(_))));
    // What another attempt mends is tried again; another transaction in the way five times.
    let tried = || database.counts().round_trips.load(Ordering::Relaxed);
    for code in ["40001", "40P01"] {
        let before = tried();
        assert!(matches!(transact(code), StoreError::Engine(Away(_))), "{code}");
        assert_eq!(tried() - before, 5, "{code}");
    }
    for code in ["57P01", "57P03", "08006", "25006", "53300"] {
        let before = tried();
        let failure = until(Instant::now() + Duration::from_millis(500), || transact(code));
        assert!(matches!(failure, StoreError::Engine(Away(_))), "{code}: {failure}");
        assert!(tried() - before > 1, "{code}");
    }
    assert_eq!(read(&database), Vec::<[u8; 2]>::new());
}

#[test]
fn a_flight_brings_the_rows_of_each_statement_in_order() {
    let Some(server) = prepared() else { return };
    let database = open(&place_at([server.address()])).unwrap();
    let numbers = |up_to: i64| {
        let sql = "select it from generate_series(1, $1) it";
        Statement::new(sql, vec![Param::Int8(up_to)])
    };
    let flight = database.flight([3, 0, 1, 5_000].map(numbers).into()).unwrap();
    let counts: Vec<_> = flight.rows.iter().map(Vec::len).collect();
    assert_eq!(counts, [3, 0, 1, 5_000]);
    assert_eq!(flight.rows[3][4_999].get::<_, i64>(0), 5_000);
}

#[test]
fn a_server_that_does_not_answer_is_passed_over() {
    let Some(server) = prepared() else { return };
    let silent = Cutter::start(server.address());
    silent.set_mode(Mode::Silent);
    let refusing = Cutter::start(server.address());
    refusing.set_mode(Mode::Refuse);
    let place = place_at([silent.address(), refusing.address(), server.address()]);
    let database = open(&place).unwrap();
    assert_eq!(database.transact(vec![put(1, 1)]).unwrap(), Transacted::Done);
    // The next connections begin with the server that answered.
    let deadline = Instant::now() + Duration::from_secs(1);
    let transacted = until(deadline, || database.transact(vec![put(2, 1)]));
    assert_eq!(transacted.unwrap(), Transacted::Done);
}

/// Statements that go out together take one delay, not one each.
#[test]
fn a_flight_and_a_transaction_take_one_round_trip() {
    let Some(server) = prepared() else { return };
    let proxy = Cutter::start(server.address());
    let database = open(&place_at([proxy.address()])).unwrap();
    database.transact(vec![put(1, 1)]).unwrap();
    // Long beside what this machine takes, however busy it is.
    let delay = Duration::from_millis(400);
    proxy.delay(delay);
    let started = Instant::now();
    let flight = database.flight((0..20).map(|_| words()).collect()).unwrap();
    let (took, one) = (started.elapsed(), 2 * delay);
    assert_eq!(flight.rows.len(), 20);
    assert!(took >= one && 2 * took < 3 * one, "{took:?}");
    let started = Instant::now();
    let transacted = database.transact((0..20).map(|key| put(key, 7)).collect()).unwrap();
    let took = started.elapsed();
    assert_eq!(transacted, Transacted::Done);
    assert!(took >= one && 2 * took < 3 * one, "{took:?}");
}

#[test]
fn a_transaction_whose_answer_is_lost_is_unclear() {
    let Some(server) = prepared() else { return };
    let proxy = Cutter::start(server.address());
    let database = open(&place_at([proxy.address()])).unwrap();
    let direct = open(&place_at([server.address()])).unwrap();
    proxy.cut_commits(100, 1);
    let mut applied = 0;
    for key in 0..20 {
        let transacted = database.transact(vec![insert(key, 0)]).unwrap();
        assert!(matches!(transacted, Transacted::Unclear(_)), "{transacted:?}");
        // When the same row is inserted again, either the first transaction was applied, or it never is.
        match direct.transact(vec![insert(key, 1)]).unwrap() {
            Transacted::GuardFailed => applied += 1,
            Transacted::Done => {}
            Transacted::Unclear(text) => panic!("{text}"),
        }
    }
    assert_eq!(proxy.cuts(), 20);
    assert!((1..20).contains(&applied), "{applied} of 20 were applied");
    proxy.cut_commits(0, 1);
    assert_eq!(database.transact(vec![put(50, 1)]).unwrap(), Transacted::Done);
}

#[test]
fn a_wait_ends_at_the_deadline_and_the_database_returns() {
    let Some(server) = prepared() else { return };
    let proxy = Cutter::start(server.address());
    let database = open(&place_at([proxy.address()])).unwrap();
    let soon = || Instant::now() + Duration::from_millis(300);
    for mode in [Mode::Refuse, Mode::Silent] {
        proxy.set_mode(mode);
        let started = Instant::now();
        let failure = until(soon(), || database.flight(vec![words()])).err().unwrap();
        assert!(matches!(failure, StoreError::Engine(EngineError::Away(_))), "{failure}");
        let unsent = until(soon(), || database.transact(vec![put(1, 1)]));
        let is_open = matches!(
            unsent,
            Err(StoreError::Engine(EngineError::Away(_))) | Ok(Transacted::Unclear(_))
        );
        assert!(is_open, "{unsent:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        proxy.set_mode(Mode::Forward);
        proxy.cut_all();
        assert_eq!(database.transact(vec![put(2, 2)]).unwrap(), Transacted::Done);
        assert!(read(&database).contains(&[2, 2]));
    }
}

#[test]
fn the_epoch_stays_over_a_restart_and_changes_with_a_promotion() {
    let setup = Setup::durable().with("synchronous_standby_names", "second");
    let Some(mut first) = Postgres::start_with(&setup) else { return };
    let second = first.standby("second");
    let both = place_at([second.address(), first.address()]);
    make_tables(&both, &Preparation::default()).unwrap();
    let database = open(&both).unwrap();
    assert_eq!(database.transact(vec![put(1, 1)]).unwrap(), Transacted::Done);
    let before = database.flight(vec![words()]).unwrap().epoch;
    first.crash();
    assert_eq!(database.flight(vec![words()]).unwrap().epoch, before);
    first.kill();
    // A standby gives no answer.
    let deadline = Instant::now() + Duration::from_secs(1);
    until(deadline, || database.flight(vec![words()])).err().expect("a standby does not answer");
    second.promote();
    let flight = database.flight(vec![words()]).unwrap();
    assert_ne!(flight.epoch, before);
    assert_eq!(read(&database), [[1, 1]]);
    assert_eq!(database.transact(vec![put(2, 2)]).unwrap(), Transacted::Done);
}

/// PgBouncer gives each transaction another connection to the server, and statements outside of one too.
#[test]
fn transactions_stay_whole_behind_a_pooler() {
    let Some(server) = prepared() else { return };
    let Some(pooler) = server.bouncer(3) else { return };
    let place = place_at([pooler.address()]);
    let processes: [_; 2] = std::array::from_fn(|_| open(&place).unwrap());
    let done = AtomicU64::new(0);
    assert_eq!(processes[0].transact(vec![put(1, 0), put(2, 0)]).unwrap(), Transacted::Done);
    std::thread::scope(|scope| {
        for database in processes.iter().chain(&processes).chain(&processes) {
            scope.spawn(|| {
                for _ in 0..40 {
                    let [[1, first], [2, second]] = read(database)[..] else { panic!("two words") };
                    // One statement sees all of a transaction or nothing.
                    assert_eq!(first, second);
                    let up = first.wrapping_add(1);
                    let both = vec![guarded(1, first, up), put(2, up)];
                    match database.transact(both).unwrap() {
                        Transacted::Done => drop(done.fetch_add(1, Ordering::Relaxed)),
                        Transacted::GuardFailed => {}
                        Transacted::Unclear(text) => panic!("{text}"),
                    }
                }
            });
        }
    });
    let counted = u8::try_from(done.into_inner() % 256).unwrap();
    assert_eq!(read(&processes[1]), [[1, counted], [2, counted]]);
    let backends =
        "select count(*) from pg_stat_activity where application_name like 'backscroll%'";
    let backends: u32 = server.sql("postgres", backends).trim().parse().unwrap();
    assert!((1..=3).contains(&backends), "{backends} connections");
}

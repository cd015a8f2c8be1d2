//! The connections, over real servers: checks at opening, transactions, retries, failovers.

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

#[test]
fn standbys_that_no_commit_waits_for_are_noticed() {
    let Some(server) = prepared() else { return };
    let database = open(&place_at([server.address()])).unwrap();
    let replication = database.replication().unwrap();
    assert_eq!((replication.standbys, replication.may_lose()), (0, false));
    let _standby = server.standby("second");
    within(PATIENCE, "the standby follows", || database.replication().unwrap().standbys == 1);
    assert!(database.replication().unwrap().may_lose());
    server.sql("postgres", "alter system set synchronous_standby_names = 'second'");
    server.sql("postgres", "select pg_reload_conf()");
    within(PATIENCE, "commits wait", || !database.replication().unwrap().may_lose());
}

#[test]
fn a_server_that_may_lose_events_is_refused() {
    let Some(server) = prepared() else { return };
    let owner = place_at([server.address()]);
    for (setting, value) in [
        ("synchronous_commit", "off"),
        ("synchronous_commit", "local"),
        ("synchronous_commit", "remote_write"),
    ] {
        server.sql("postgres", &format!("alter role owner set {setting} = {value}"));
        let refused = refusal(&owner);
        assert!(refused.contains(&format!("{setting} = {value}")), "{refused}");
    }
    server.sql("postgres", "alter role owner set synchronous_commit = remote_apply");
    open(&owner).unwrap();
    for setting in ["fsync", "full_page_writes"] {
        server.sql("postgres", &format!("alter system set {setting} = off"));
        server.sql("postgres", "select pg_reload_conf()");
        within(PATIENCE, "the setting is read", || {
            open(&owner).is_err_and(|it| it.to_string().contains(&format!("{setting} = off")))
        });
        server.sql("postgres", &format!("alter system reset {setting}"));
        server.sql("postgres", "select pg_reload_conf()");
        within(PATIENCE, "the setting is read", || open(&owner).is_ok());
    }
}

#[test]
fn a_database_is_prepared_once_for_a_role_that_may_not_make_tables() {
    let Some(server) = Postgres::start_with(&Setup::durable()) else { return };
    server.sql("postgres", "create role server login; create role other login");
    let owner = "options=-csearch_path%3Dhistory";
    let [as_owner, as_server, as_other] = ["owner", "server", "other"]
        .map(|role| place(&format!("{}?{owner}", server.tcp_url(role, "postgres"))));
    let refused = refusal(&as_owner);
    assert!(refused.contains("run `backscroll prepare"), "{refused}");
    let preparation = Preparation { serve_role: Some("server".to_owned()), citus: false };
    // Several may prepare it at the same time, as the containers of a deployment do.
    std::thread::scope(|scope| {
        let all = [(); 4].map(|()| scope.spawn(|| make_tables(&as_owner, &preparation).unwrap()));
        all.into_iter().for_each(|it| assert!(!it.join().unwrap().is_empty()));
    });
    let again = make_tables(&as_owner, &preparation).unwrap();
    assert_eq!(again[0], "the tables are in the schema history, with version 1");
    let database = open(&as_server).unwrap();
    assert_eq!(database.transact(vec![put(1, 1)]).unwrap(), Transacted::Done);
    let table = Statement::new("create table history.mine (n int)", Vec::new());
    database.transact(vec![table]).unwrap_err();
    database.transact(vec![Statement::new("drop table page", Vec::new())]).unwrap_err();
    let refused = refusal(&as_other);
    assert!(refused.contains("run `backscroll prepare"), "{refused}");
    server.sql("postgres", "revoke delete on history.note from server");
    let refused = refusal(&as_server);
    assert!(refused.contains("the role lacks delete on note"), "{refused}");
    server.sql("postgres", "comment on table history.store_word is 'backscroll schema 2'");
    for refused in
        [open(&as_owner).err().unwrap(), make_tables(&as_owner, &preparation).unwrap_err()]
    {
        let is_newer = matches!(refused, StoreError::NewerFormat { found: 2, known: 1 });
        assert!(is_newer, "{refused}");
    }
}

/// The password is read again for each connection, and a wrong one is told at once.
#[test]
fn a_password_changes_while_the_database_is_used() {
    let rules = "local all all trust\nhost all owner 127.0.0.1/32 trust\n\
                 host all server 127.0.0.1/32 scram-sha-256\n";
    let setup = Setup::durable().with_file("pg_hba.conf", rules.as_bytes());
    let Some(server) = Postgres::start_with(&setup) else { return };
    server.sql("postgres", "create role server login password 'first'");
    let preparation = Preparation { serve_role: Some("server".to_owned()), citus: false };
    make_tables(&place_at([server.address()]), &preparation).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    fs::write(&file, "wrong\n").unwrap();
    let url = server.tcp_url("server", "postgres");
    let place = place(&format!("{url}?password_file={}", file.display()));
    let started = Instant::now();
    let refused = refusal(&place);
    assert!(refused.contains("password authentication failed"), "{refused}");
    assert!(!refused.contains("wrong"), "{refused}");
    assert!(started.elapsed() < PATIENCE / 2, "a wrong password is told at once");
    fs::write(&file, "first\n").unwrap();
    let database = open(&place).unwrap();
    server.sql("postgres", "alter role server password 'second'");
    fs::write(&file, "second\n").unwrap();
    server.sql(
        "postgres",
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'server'",
    );
    assert_eq!(database.transact(vec![put(1, 1)]).unwrap(), Transacted::Done);
    assert_eq!(read(&database), [[1, 1]]);
    fs::remove_file(&file).unwrap();
    let refused = refusal(&place);
    assert!(refused.contains("password"), "{refused}");
}

#[test]
fn a_server_whose_certificate_is_not_trusted_is_refused() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let elsewhere = rcgen::generate_simple_self_signed(["db.example.org".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, pem: String| {
        let path = dir.path().join(name);
        fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let [trusted, not_trusted, of_elsewhere] = [
        write("trusted", made.cert.pem()),
        write("not_trusted", other.cert.pem()),
        write("of_elsewhere", elsewhere.cert.pem()),
    ];
    let start = |it: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let setup = Setup::durable()
            .with("ssl", "on")
            .with_file("server.crt", it.cert.pem().as_bytes())
            .with_file("server.key", it.signing_key.serialize_pem().as_bytes());
        Postgres::start_with(&setup)
    };
    let (Some(server), Some(plain)) = (start(&made), prepared()) else { return };
    let verified = |server: &Postgres, ca: &str| {
        let url = server.tcp_url("owner", "postgres");
        place(&format!("{url}?sslmode=verify-full&sslrootcert={ca}"))
    };
    make_tables(&verified(&server, &trusted), &Preparation::default()).unwrap();
    let database = open(&verified(&server, &trusted)).unwrap();
    let encrypted = "select ssl::text from pg_stat_ssl where pid = pg_backend_pid()";
    let flight = database.flight(vec![Statement::new(encrypted, Vec::new())]).unwrap();
    assert_eq!(flight.rows[0][0].get::<_, &str>(0), "true");
    let started = Instant::now();
    for (place, fault) in [
        (verified(&server, &not_trusted), "certificate"),
        (verified(&server, "system"), "certificate"),
        (verified(&plain, &trusted), "server does not support TLS"),
        (verified(&server, "/nowhere"), "sslrootcert"),
    ] {
        let refused = refusal(&place);
        assert!(refused.contains(fault), "{refused}");
    }
    let of_another_host = start(&elsewhere).unwrap();
    let refused = refusal(&verified(&of_another_host, &of_elsewhere));
    assert!(refused.contains("certificate"), "{refused}");
    assert!(started.elapsed() < PATIENCE, "they are told at once");
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

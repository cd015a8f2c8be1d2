//! What is refused when a database is opened, and what `prepare` does.

use super::*;

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

//! The program: its command line, its log, and how it stops.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStderr, Command, Stdio},
};

use serde_json::Value;

use crate::support::{Stage, client::Ask};

const FLAGS: [&str; 8] = [
    "--server-name",
    "us.example",
    "--history",
    "http://127.0.0.1:1",
    "--listen",
    "127.0.0.1:0",
    "--fetch-keys",
    "false",
];

fn gateway(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll-gateway"));
    command.env_clear().args(flags).stderr(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Starts the program. Returns the address from its log as well.
fn start() -> (Child, BufReader<ChildStderr>, String) {
    let mut child = gateway(&FLAGS).args(["--log-format", "json"]).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut message = || {
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["message"].as_str().unwrap().to_owned()
    };
    assert!(message().contains("no request can be authenticated"));
    let address = message().strip_prefix("listening on ").unwrap().to_owned();
    (child, log, address)
}

#[test]
fn a_signal_ends_it_well() {
    for signal in ["-TERM", "-INT"] {
        let (mut child, mut log, _address) = start();
        let kill = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("stopped"), "{rest}");
    }
}

#[tokio::test]
async fn one_line_a_request_and_no_secrets_in_it() {
    let peer = Stage::start().await.peer;
    let target = "/_matrix/federation/v1/backfill/!r:us.example?v=$secret&limit=1";
    let sig = peer.sig("GET", target, None);
    let (mut child, mut log, address) = start();
    let ask = Ask::new("GET", target).authorization(peer.header(&sig));
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&ask.bytes()).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();

    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    // There may be lines about the history service as well.
    let requests = rest.lines().filter(|line| line.contains("\"status\""));
    let [line] = requests.collect::<Vec<_>>()[..] else { panic!("{rest}") };
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["status"], &line["errcode"]), (&401.into(), &"M_UNAUTHORIZED".into()));
    assert_eq!(line["span"]["endpoint"], "backfill");
    assert!(!rest.contains(&sig) && !rest.contains("$secret"), "{rest}");
}

#[test]
fn help_teaches() {
    let output = gateway(&["--help"]).output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for text in [
        "Examples:",
        "--pinned-keys",
        "BACKSCROLL_GATEWAY_SERVER_NAME",
        "/readyz",
        "Beside Synapse",
        "--pass-through true",
    ] {
        assert!(help.contains(text), "{help}");
    }
}

#[test]
fn mistakes_are_named() {
    let no_ca = [&FLAGS[..], &["--fallback", "https://h", "--fallback-ca", "/nowhere/ca"]].concat();
    let missing: [&[&str]; 2] = [&FLAGS, &["--pinned-keys", "/nowhere/keys.json"]];
    for (flags, code, text) in [
        (&[][..], 2, "--server-name"),
        (&["--server-name", "a b", "--history", "http://h"], 2, "not a host name"),
        (&["--server-name", "a", "--history", "h:1"], 2, "expected http://HOST:PORT or"),
        (&missing.concat(), 1, "/nowhere/keys.json"),
        (&no_ca, 1, "/nowhere/ca"),
        (&[&FLAGS[..], &["--fallback", "http://h/path"]].concat(), 2, "without a path"),
        (&[&FLAGS[..], &["--pass-through", "true"]].concat(), 2, "--fallback <URL>"),
        (
            &[&FLAGS[..], &["--fallback", "http://h", "--fallback-wait-ms", "2001"]].concat(),
            2,
            "2001",
        ),
        (&[&FLAGS[..], &["--tls-cert", "/nowhere/cert"]].concat(), 2, "--tls-key"),
        (
            &[&FLAGS[..], &["--tls-cert", "/nowhere/cert", "--tls-key", "k"]].concat(),
            1,
            "/nowhere/cert",
        ),
    ] {
        let output = gateway(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{flags:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(text), "{error}");
    }
}

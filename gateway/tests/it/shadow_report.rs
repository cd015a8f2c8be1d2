//! The command `shadow-report`, which asks a running gateway.

use std::{
    net::TcpListener,
    process::{Command, Output},
};

use backscroll_gateway::proto::v1::{CompareAnswersResponse, ComparisonOutcome, GetFeederResponse};

use crate::support::{
    homeserver::{FakeHomeserver, response},
    program::Program,
    until,
};

const EVENT: &str = r#"{"type":"x","content":{"body":"secret"}}"#;
const JSON: &str = "Content-Type: application/json\r\n";

/// Runs the command for a gateway that serves its metrics at this address.
fn shadow_report(address: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll-gateway"));
    command.env_clear().args(["shadow-report", "--url", &format!("http://{address}")]);
    command.output().unwrap()
}

/// An address on which nothing listens.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn printed(output: &Output) -> String {
    let bytes = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn it_prints_what_a_running_gateway_has_found() {
    let homeserver = FakeHomeserver::start().await;
    let address = free_address();
    let url = homeserver.url();
    let mut flags = vec!["--fallback", &url, "--fallback-first-of-origin", "false"];
    flags.extend(["--shadow", "answer=history", "--metrics-listen", &address]);
    let program = Program::start(&flags).await;
    program.history.respond(|| Ok(vec![EVENT.into()]));
    program.history.set_feeder(GetFeederResponse {
        feeder_name: "synapse".to_owned(),
        ready: true,
        lag: Some(prost_types::Duration::default()),
        ..GetFeederResponse::default()
    });
    program.history.set_comparison(CompareAnswersResponse {
        outcome: ComparisonOutcome::Unexplained.into(),
        ..CompareAnswersResponse::default()
    });
    let backfilled = |pdu: &str| {
        let body = format!(r#"{{"origin":"us.example","origin_server_ts":1,"pdus":[{pdu}]}}"#);
        response(200, JSON, &body)
    };
    let compared = async |count: usize, line: &str| {
        assert_eq!(program.answers(1).await, 1);
        let mut text = String::new();
        until(&format!("{line} is reported"), async || {
            let output = shadow_report(&address);
            text = printed(&output);
            assert_eq!(output.status.code(), Some(0), "{text}");
            text.contains(&format!("{count:>9}  {line}\n"))
        })
        .await;
        text
    };

    homeserver.reply(backfilled(EVENT));
    let text = compared(1, "same answer").await;
    assert!(text.starts_with("answered by history, 1 of the requests compared\n"), "{text}");
    assert!(text.contains("        0  UNEXPLAINED\n"), "{text}");
    assert!(text.contains("No unexplained difference yet"), "{text}");

    homeserver.reply(backfilled(r#"{"type":"x","content":{}}"#));
    let text = compared(1, "UNEXPLAINED").await;
    assert!(text.contains("        2  questions compared\n"), "{text}");
    assert!(text.contains("backfill of \"!r:us.example\" by \"peer.example:8448\""), "{text}");
    assert!(text.contains("Do not switch over"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn it_says_what_is_missing() {
    let away = free_address();
    let output = shadow_report(&away);
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("cannot reach http://{away}/shadow")), "{text}");

    let address = free_address();
    let _without_shadow = Program::start(&["--metrics-listen", &address]).await;
    let output = shadow_report(&address);
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("start the gateway with --shadow and --metrics-listen"), "{text}");

    let output = shadow_report("[");
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("--url"), "{text}");
}

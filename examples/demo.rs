//! A first look: both services on real sockets over a store of their own, a recorded room, one
//! signed question of another server, and its answer as a person can read it. Serves until Ctrl-C.
//!
//! `cargo run --release --example demo`

use std::{
    collections::BTreeMap,
    fs::File,
    io::BufReader,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use backscroll::{
    context::Context,
    deadline::Deadline,
    ingest::{self, NewEvent, Outcome},
    pdu::{Pdu, RoomVersion},
    query,
    room_format::{Header, Reader},
    server,
    store::Options,
    telemetry::{self, LogFormat, Logs},
};
use backscroll_gateway::{keys::PinnedKeys, server::Options as GatewayOptions};
use federation::{Federation, Question};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, value::RawValue};
use tokio::net::TcpListener;

#[path = "../tests/it/support/federation.rs"]
mod federation;

/// A room whose history visibility changed several times, so that the answer shows both forms.
const ROOM: &str = "visibility-v12";
/// Who asks, and whom.
const ORIGIN: &str = "hs2.example:9102";
const DESTINATION: &str = "hs1.example:9101";
const LIMIT: u32 = 40;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let logs = Logs { format: LogFormat::Text, filter: "warn" };
    let _traces = telemetry::start("demo", logs, None)?;
    let rooms = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms");
    let data_dir = tempfile::tempdir()?;
    let options = Options { cache_bytes: 64 << 20, ..Options::small(data_dir.path()) };
    let cx = server::open(&options)?;
    let header = load(&cx, &rooms.join(ROOM).join("room.ndjson"))?;

    let history = listen(8470).await?;
    let gateway = listen(8448).await?;
    let (history_address, gateway_address) = (history.local_addr()?, gateway.local_addr()?);
    let server_keys = std::fs::read(rooms.join("server-keys.json"))?;
    let gateway_options = GatewayOptions {
        keys: PinnedKeys::from_json(&server_keys)?,
        ..GatewayOptions::new(DESTINATION.parse()?, format!("http://{history_address}").parse()?)
    };
    let grace = Duration::from_secs(5);
    let serving = tokio::spawn(server::serve(Arc::clone(&cx), history, grace, ctrl_c()));
    let gatewaying =
        tokio::spawn(backscroll_gateway::server::serve(gateway, gateway_options, ctrl_c()));

    println!("\nBackscroll, on a store that is gone when this ends.\n");
    println!("  history  http://{history_address}   gRPC, with reflection");
    println!("  gateway  http://{gateway_address}   the federation's two questions");
    let summary =
        query::answer(&cx, &query::GetRoom { room_id: header.room_id.clone() }, &Deadline::none())?;
    let (version, count) = (&header.room_version, summary.event_count);
    println!("  room     {} (version {version}, {count} events)\n", header.room_id);

    let federation = Federation::new(&std::fs::read_to_string(rooms.join("signing-keys.json"))?);
    let start = summary.forward_extremities.first().context("the room has an end")?;
    let uri = format!(
        "/_matrix/federation/v1/backfill/{}?v={}&limit={LIMIT}",
        utf8_percent_encode(&header.room_id, NON_ALPHANUMERIC),
        utf8_percent_encode(start, NON_ALPHANUMERIC),
    );
    let hidden = ask(&federation, gateway_address, &uri, version).await?;
    try_yourself(history_address, &header.room_id, hidden.as_deref().unwrap_or(start));
    println!("\nServing until Ctrl-C.");
    serving.await??;
    gatewaying.await??;
    Ok(())
}

async fn ctrl_c() {
    // Without signals there is nothing to wait for: stop at once.
    drop(tokio::signal::ctrl_c().await);
}

/// The usual port, or any other if it is taken.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(("127.0.0.1", port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind("127.0.0.1:0").await,
    }
}

fn load(cx: &Context, path: &PathBuf) -> anyhow::Result<Header> {
    let (header, lines) = Reader::open(BufReader::new(File::open(path)?))?;
    for line in lines {
        let line = line?;
        let outcome = ingest::append_unflushed(cx, &NewEvent::of_line(&header, &line))?;
        ensure!(matches!(outcome, Outcome::Appended { .. }), "{}: {outcome:?}", line.event_id);
    }
    cx.store.flush()?;
    Ok(header)
}

/// Asks as another server would, and prints the answer. The id of an event that came redacted.
async fn ask(
    federation: &Federation,
    gateway: SocketAddr,
    uri: &str,
    version: &str,
) -> anyhow::Result<Option<String>> {
    #[derive(serde::Deserialize)]
    struct Answer {
        pdus: Vec<Box<RawValue>>,
    }
    let question =
        Question { origin: ORIGIN, destination: DESTINATION, method: "GET", uri, content: None };
    println!("{ORIGIN} asks, signed with its ed25519 key:\n\n  GET {uri}\n");
    let answer = federation.ask(gateway, question).await;
    ensure!(answer.status.is_success(), "{}: {:?}", answer.status, answer.body);
    let body: Answer = serde_json::from_slice(&answer.body)?;
    println!("{}, {} events, newest first:\n", answer.status, body.pdus.len());
    println!("  {:>5}  {:<9} {:<8} {:<26} content", "depth", "form", "sender", "type");
    let version = RoomVersion::parse(version)?;
    let mut hidden = None;
    for pdu in &body.pdus {
        let pdu = Pdu::parse(pdu.get().as_bytes(), version)?;
        let form = if pdu.content_hash_matches() { "full" } else { "redacted" };
        if form == "redacted" {
            hidden.get_or_insert_with(|| pdu.event_id().to_string());
        }
        let localpart = pdu.sender().as_str().trim_start_matches('@');
        let sender: String = localpart.chars().take_while(|it| !"_:".contains(*it)).collect();
        let content = serde_json::to_value(pdu.content())?;
        let (depth, kind) = (pdu.depth(), pdu.event_type());
        println!("  {depth:>5}  {form:<9} {sender:<8} {kind:<26} {}", summed_up(&content));
    }
    Ok(hidden)
}

fn summed_up(content: &Value) -> String {
    let parts: BTreeMap<&str, String> = ["membership", "history_visibility", "body", "name"]
        .iter()
        .filter_map(|it| Some((*it, content.get(it)?.as_str()?.to_owned())))
        .collect();
    parts.into_iter().map(|(key, value)| format!("{key}: {value}  ")).collect()
}

fn try_yourself(history: SocketAddr, room_id: &str, event_id: &str) {
    println!("\nRedacted events are those that the room's history visibility hides from {ORIGIN}.");
    println!("Why one of them is, and the state at it:\n");
    println!("  cargo run --release -- explain --server http://{history} \\");
    println!("    '{room_id}' \\\n    '{event_id}' \\\n    {ORIGIN} --destination {DESTINATION}");
    println!("  cargo run --release -- state --server http://{history} '{room_id}'");
}

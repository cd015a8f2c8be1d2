//! A first look: starts both services on real sockets over a temporary store, loads a recorded room,
//! sends one signed request as another server, and prints the response. Serves until Ctrl-C.
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
    query::{self, GetRoom},
    room_format::{Header, Reader},
    server,
    store::Options,
    telemetry::{self, LogFormat, Logs},
};
use backscroll_gateway::{keys::PinnedKeys, server::Options as GatewayOptions};
use backscroll_testkit::{Federation, FederationRequest};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, value::RawValue};
use tokio::net::TcpListener;

/// A room whose history visibility changed several times, so that the response shows both forms.
const ROOM: &str = "visibility-v12";
/// The server that sends the request.
const ORIGIN: &str = "hs2.example:9102";
/// The server that the gateway stands for.
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

    println!("\nBackscroll, on a store that is removed when this ends.\n");
    println!("  history  http://{history_address}   gRPC, with reflection");
    println!("  gateway  http://{gateway_address}   /backfill and /get_missing_events");
    let get_room = GetRoom { room_id: header.room_id.clone() };
    let summary = query::answer(&cx, &get_room, &Deadline::none())?;
    let (version, count) = (&header.room_version, summary.event_count);
    println!("  room     {} (version {version}, {count} events)\n", header.room_id);

    let federation =
        Federation::from_json(&std::fs::read_to_string(rooms.join("signing-keys.json"))?);
    let start = summary.forward_extremities.first().context("the room has a forward extremity")?;
    let uri = format!(
        "/_matrix/federation/v1/backfill/{}?v={}&limit={LIMIT}",
        utf8_percent_encode(&header.room_id, NON_ALPHANUMERIC),
        utf8_percent_encode(start, NON_ALPHANUMERIC),
    );
    let redacted = request(&federation, gateway_address, &uri, version).await?;
    try_yourself(history_address, &header.room_id, redacted.as_deref().unwrap_or(start));
    println!("\nServing until Ctrl-C.");
    serving.await??;
    gatewaying.await??;
    Ok(())
}

async fn ctrl_c() {
    // An error means that signals cannot be received: stop at once.
    drop(tokio::signal::ctrl_c().await);
}

/// Listens on a port, or on any free port if another process uses it.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind(("127.0.0.1", port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind("127.0.0.1:0").await,
    }
}

/// Appends every event of a room file.
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

/// Sends a signed request and prints the response. Returns the id of a redacted event; `None` if all
/// events are full.
async fn request(
    federation: &Federation,
    gateway: SocketAddr,
    uri: &str,
    version: &str,
) -> anyhow::Result<Option<String>> {
    #[derive(serde::Deserialize)]
    struct Backfill {
        pdus: Vec<Box<RawValue>>,
    }
    let request = FederationRequest {
        origin: ORIGIN,
        destination: DESTINATION,
        method: "GET",
        uri,
        content: None,
    };
    println!("{ORIGIN} sends, signed with its ed25519 key:\n\n  GET {uri}\n");
    let response = federation.send(gateway, request).await;
    ensure!(response.status.is_success(), "{}: {:?}", response.status, response.body);
    let body: Backfill = serde_json::from_slice(&response.body)?;
    println!("{}, {} events, newest first:\n", response.status, body.pdus.len());
    println!("  {:>5}  {:<9} {:<8} {:<26} content", "depth", "form", "sender", "type");
    let version = RoomVersion::parse(version)?;
    let mut redacted = None;
    for pdu in &body.pdus {
        let pdu = Pdu::parse(pdu.get().as_bytes(), version)?;
        let form = if pdu.content_hash_matches() { "full" } else { "redacted" };
        if form == "redacted" {
            redacted.get_or_insert_with(|| pdu.event_id().to_string());
        }
        let localpart = pdu.sender().as_str().trim_start_matches('@');
        let sender: String = localpart.chars().take_while(|it| !"_:".contains(*it)).collect();
        let content = serde_json::to_value(pdu.content())?;
        let (depth, kind) = (pdu.depth(), pdu.event_type());
        println!("  {depth:>5}  {form:<9} {sender:<8} {kind:<26} {}", summary(&content));
    }
    Ok(redacted)
}

/// The members of an event's content that a person wants to see.
fn summary(content: &Value) -> String {
    let parts: BTreeMap<&str, String> = ["membership", "history_visibility", "body", "name"]
        .iter()
        .filter_map(|it| Some((*it, content.get(it)?.as_str()?.to_owned())))
        .collect();
    parts.into_iter().map(|(key, value)| format!("{key}: {value}  ")).collect()
}

fn try_yourself(history: SocketAddr, room_id: &str, event_id: &str) {
    println!("\nThe room's history visibility hides the redacted events from {ORIGIN}.");
    println!("Ask why one of them is hidden, and for the current state of the room:\n");
    println!("  cargo run --release -- explain --server http://{history} \\");
    println!("    '{room_id}' \\\n    '{event_id}' \\\n    {ORIGIN} --destination {DESTINATION}");
    println!("  cargo run --release -- state --server http://{history} '{room_id}'");
}

//! Both services in a process of their own, on cores of their own, so that its processor time is theirs.

use std::{
    fs::{self, File},
    io::{self, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    sync::Arc,
};

use backscroll::{
    context::Context,
    ingest::{self, NewEvent},
    room_format::Reader,
    server,
    store::Options,
    telemetry::{self, LogFormat, Logs},
};
use backscroll_gateway::{keys::PinnedKeys, server::Options as GatewayOptions};
use tokio::net::TcpListener;

use super::{DEADLINE, DESTINATION, ROOM, rooms};

/// Prints the address of the gateway, and serves until standard input ends.
pub(super) async fn serve(refusal_rate: Option<u32>) -> anyhow::Result<()> {
    // The usual log level: writing log lines costs time too.
    let logs = Logs { format: LogFormat::Text, filter: "info" };
    let _traces = telemetry::start("overload", logs, None)?;
    let data_dir = tempfile::tempdir()?;
    let options = Options { cache_bytes: 64 << 20, ..Options::small(data_dir.path()) };
    let cx = server::open(&options)?;
    load(&cx, &rooms().join(ROOM).join("room.ndjson"))?;
    let gateway = start(&cx, &fs::read(rooms().join("server-keys.json"))?, refusal_rate).await?;
    let mut stdout = io::stdout();
    writeln!(stdout, "{gateway}")?;
    stdout.flush()?;
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    Ok(())
}

fn load(cx: &Context, path: &Path) -> anyhow::Result<()> {
    let (header, lines) = Reader::open(BufReader::new(File::open(path)?))?;
    for line in lines {
        ingest::append_unflushed(cx, &NewEvent::of_line(&header, &line?))?;
    }
    Ok(())
}

/// Starts both services; returns the address of the gateway. They end with the process.
async fn start(
    cx: &Arc<Context>,
    server_keys: &[u8],
    refusal_rate: Option<u32>,
) -> anyhow::Result<SocketAddr> {
    let history = TcpListener::bind("127.0.0.1:0").await?;
    let gateway = TcpListener::bind("127.0.0.1:0").await?;
    let address = gateway.local_addr()?;
    let url = format!("http://{}", history.local_addr()?).parse()?;
    let mut options = GatewayOptions {
        keys: PinnedKeys::from_json(server_keys)?,
        request_timeout: DEADLINE,
        ..GatewayOptions::new(DESTINATION.parse()?, url)
    };
    // One server sends everything from one address: its own limits must not apply.
    options.limits.max_per_address = options.limits.max_connections;
    options.limits.server_rate = 10_000_000;
    options.limits.server_burst = 10_000_000;
    if let Some(rate) = refusal_rate {
        options.limits.refusal_rate = rate;
    }
    let never = std::future::pending();
    tokio::spawn(server::serve(Arc::clone(cx), history, DEADLINE, never));
    tokio::spawn(backscroll_gateway::server::serve(gateway, options, std::future::pending()));
    Ok(address)
}

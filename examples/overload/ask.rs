//! Those who ask: connections that ask again as soon as they have an answer, or at times set
//! beforehand.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpStream,
    task::JoinSet,
    time::{self, Instant},
};

use super::DEADLINE;

/// What came of one part.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) answered: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) failed: AtomicU64,
}

/// Asks on so many connections for so long: each as soon as it has its answer, or all together so
/// many a second. Connections are made beforehand, and what comes after the end does not count. Also
/// says what `cpu` has grown by from the start to the end.
pub(super) async fn ask(
    gateway: SocketAddr,
    requests: &Arc<Vec<String>>,
    (connections, rate): (u32, Option<f64>),
    part: Duration,
    cpu: impl Fn() -> anyhow::Result<Duration>,
) -> anyhow::Result<(Arc<Counts>, Duration)> {
    let counts = Arc::new(Counts::default());
    let mut asking = JoinSet::new();
    let now = Instant::now();
    // One after another, as fast as they would come from many machines.
    let start = now + Duration::from_micros(500) * connections + Duration::from_millis(200);
    for nth in 0..connections {
        let (requests, counts) = (Arc::clone(requests), Arc::clone(&counts));
        asking.spawn(async move {
            time::sleep_until(now + Duration::from_micros(500) * nth).await;
            let each = rate.map(|rate| Duration::from_secs_f64(f64::from(connections) / rate));
            // Not all at the same moment.
            let first = start + each.unwrap_or_default() * nth / connections;
            // A prime, so that the connections go through the requests at distances.
            let at = usize::try_from(nth).unwrap_or(0) * 7_919;
            connection(gateway, (&requests, at), (first, each, start + part), &counts).await;
        });
    }
    time::sleep_until(start).await;
    let before = cpu()?;
    time::sleep_until(start + part).await;
    let used = cpu()?.saturating_sub(before);
    asking.join_all().await;
    Ok((counts, used))
}

/// One connection, made again when it breaks.
async fn connection(
    gateway: SocketAddr,
    (requests, mut at): (&[String], usize),
    (mut next, each, end): (Instant, Option<Duration>, Instant),
    counts: &Counts,
) {
    while next < end {
        let Ok(stream) = TcpStream::connect(gateway).await else {
            counts.failed.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let mut stream = BufStream::new(stream);
        while next < end {
            time::sleep_until(next).await;
            at += 1;
            let Some(request) = requests.get(at % requests.len()) else { return };
            let asked = Instant::now();
            let answer = time::timeout(3 * DEADLINE, exchange(&mut stream, request)).await;
            let counted = match answer {
                Ok(Ok(200)) if asked.elapsed() > DEADLINE => &counts.late,
                Ok(Ok(200)) => &counts.answered,
                Ok(Ok(429)) => &counts.refused,
                _ => &counts.failed,
            };
            let now = Instant::now();
            if now < end {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            // What could not be asked in time is not asked later.
            next = each.map_or(now, |each| (next + each).max(now));
            if !matches!(answer, Ok(Ok(_))) {
                break;
            }
        }
    }
}

/// One request and the status of its answer.
async fn exchange(stream: &mut BufStream<TcpStream>, request: &str) -> anyhow::Result<u16> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).context("no status")?.parse()?;
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(status)
}

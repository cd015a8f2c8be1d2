//! `backscroll import`: files in the room format, over `AppendEvents`.

use std::{
    fs::{self, File},
    io::{self, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    ServerArgs,
    client::{Clients, connect, told},
    out, progress_target,
    signatures::PinnedKeys,
};
use crate::{
    proto::v1::{self as pb, append_events_response::Outcome},
    room_format::{Header, Line, Reader},
};

/// Events sent ahead of their acknowledgements.
const IN_FLIGHT: usize = 256;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
An event that is held already changes nothing, so an import that was cut off can be run again.
Refused events are named on standard error, the others are taken all the same; exit code 1.

The room format is NDJSON: {\"room\": {\"room_id\", \"room_version\", \"erased_users\"}} and then, in
order of arrival, {\"event_id\", \"pdu\", \"outlier\", \"rejected\", \"soft_failed\", \"state_after\"}.")]
pub(super) struct Args {
    #[command(flatten)]
    server: ServerArgs,

    /// Name the events whose signatures do not fit these keys: a JSON object of server names and
    /// their answers to /_matrix/key/v2/server. The events are sent all the same.
    #[arg(long, env = "BACKSCROLL_SERVER_KEYS", value_name = "FILE")]
    server_keys: Option<PathBuf>,

    /// Exit with code 1, too, if signatures do not fit --server-keys.
    #[arg(long, env = "BACKSCROLL_STRICT")]
    strict: bool,

    /// The rooms.
    #[arg(required = true, value_name = "ROOM.ndjson")]
    rooms: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    appended: u64,
    held: u64,
    redacted: u64,
    refused: u64,
    purged: u64,
    bad_signatures: u64,
}

pub(super) async fn run(args: Args) -> anyhow::Result<bool> {
    let Args { server, server_keys, strict, rooms } = args;
    let pinned = server_keys.map(|path| PinnedKeys::read(&path)).transpose()?.map(Arc::new);
    let mut clients = connect(&server).await?;
    let bytes = rooms.iter().map(|it| fs::metadata(it).map_or(0, |it| it.len())).sum();
    let progress = progress_bar(bytes);
    let mut total = Counts::default();
    for path in &rooms {
        let counts = import(&mut clients, path, pinned.clone(), &progress)
            .await
            .with_context(|| format!("{}", path.display()))?;
        total.appended += counts.appended;
        total.held += counts.held;
        total.redacted += counts.redacted;
        total.refused += counts.refused;
        total.purged += counts.purged;
        total.bad_signatures += counts.bad_signatures;
    }
    progress.finish_and_clear();
    let Counts { appended, held, redacted, refused, purged, bad_signatures } = total;
    out::line(format_args!(
        "{} rooms: {appended} events appended, {held} held already, {refused} refused",
        rooms.len()
    ))?;
    if redacted > 0 {
        out::line(format_args!(
            "{redacted} of them did not match their content hash: their redacted form is held"
        ))?;
    }
    if purged > 0 {
        out::line(format_args!("{purged} were purged here, or their room deleted, and stay away"))?;
    }
    if bad_signatures > 0 {
        out::line(format_args!(
            "{bad_signatures} have a signature that does not fit --server-keys, and were sent"
        ))?;
    }
    Ok(refused == 0 && !(strict && bad_signatures > 0))
}

fn progress_bar(bytes: u64) -> ProgressBar {
    let style = "{wide_bar} {bytes}/{total_bytes} {msg} {eta} left";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(bytes), progress_target()).with_style(style)
}

async fn import(
    clients: &mut Clients,
    path: &Path,
    pinned: Option<Arc<PinnedKeys>>,
    progress: &ProgressBar,
) -> anyhow::Result<Counts> {
    let (header, lines) = Reader::open(BufReader::new(File::open(path)?))?;
    for user_id in &header.erased_users {
        let request = pb::SetUserErasedRequest { user_id: user_id.clone(), erased: true };
        let set = clients.ingest.set_user_erased(request).await;
        set.map_err(|status| told(&status))?;
    }
    let (to_service, requests) = mpsc::channel(IN_FLIGHT);
    let (read, name) = (progress.clone(), path.display().to_string());
    let reading = tokio::spawn(async move {
        let mut bad_signatures = 0;
        // The header is line 1.
        for (number, line) in (2_u64..).zip(lines) {
            let line = line?;
            if let Some(fault) = pinned.as_ref().and_then(|pinned| pinned.fault(&header, &line)) {
                bad_signatures += 1;
                let said = || writeln!(io::stderr(), "{name}:{number}: {fault}");
                // The count says it too, if nobody reads.
                drop(read.suspend(said));
            }
            read.inc(line.pdu.get().len().try_into()?);
            if to_service.send(request(&header, line)).await.is_err() {
                break;
            }
        }
        anyhow::Ok(bad_signatures)
    });
    let responses = clients.ingest.append_events(ReceiverStream::new(requests)).await;
    let mut responses = responses.map_err(|status| told(&status))?.into_inner();
    let mut counts = Counts::default();
    while let Some(response) = responses.message().await.map_err(|status| told(&status))? {
        if let Some(refused) = counts.count(response)? {
            // The header is line 1, and every event has an answer.
            let line = counts.answered() + 1;
            let said = || writeln!(io::stderr(), "{}:{line}: {refused}", path.display());
            // The exit code says it too, if nobody reads.
            drop(progress.suspend(said));
        }
        progress.set_message(format!("{} events", counts.appended + counts.held));
    }
    counts.bad_signatures = reading.await??;
    Ok(counts)
}

impl Counts {
    fn answered(&self) -> u64 {
        self.appended + self.held + self.refused + self.purged
    }

    /// Counts an answer; gives back what to say of a refusal.
    fn count(&mut self, response: pb::AppendEventsResponse) -> anyhow::Result<Option<String>> {
        let pb::AppendEventsResponse { event_id, outcome } = response;
        match outcome {
            Some(Outcome::Appended(pb::Appended { duplicate, redacted, purged })) => {
                self.purged += u64::from(purged);
                self.appended += u64::from(!duplicate && !purged);
                self.held += u64::from(duplicate);
                self.redacted += u64::from(redacted);
                Ok(None)
            }
            Some(Outcome::Refusal(refusal)) => {
                self.refused += 1;
                let reason = refusal.reason().as_str_name();
                Ok(Some(format!("{event_id} {reason}: {}", refusal.message)))
            }
            None => bail!("the service answered without an outcome; is it of another version?"),
        }
    }
}

fn request(header: &Header, line: Line) -> pb::AppendEventsRequest {
    let Line { event_id, pdu, outlier, rejected, soft_failed, state_after } = line;
    pb::AppendEventsRequest {
        room_id: header.room_id.clone(),
        room_version: header.room_version.clone(),
        event_id,
        pdu: String::from(Box::<str>::from(pdu)).into(),
        verdict: Some(pb::Verdict { outlier, rejected, soft_failed }),
        state_after,
        arrival: None,
    }
}

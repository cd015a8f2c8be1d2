//! The command `backscroll import`: appends files in the room format with `AppendEvents`.

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
    client::{Clients, connect, message, service_error},
    out, progress_target,
    signatures::PinnedKeys,
};
use crate::{
    proto::v1::{self as pb, append_events_response::Outcome},
    room_format::{Header, Line, Reader},
};

/// Events that may be sent before their responses are received.
const IN_FLIGHT: usize = 256;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
To import an event again changes nothing, so run an interrupted import again. If the state of a held
event is not known, it takes the `state_after` of its line.

Refused events are printed on standard error, and all others are stored; the exit code is then 1. Events
that break the format of their room version are printed too, but stored as unreadable events: walks go
through them, they are never served, and they change no state; the exit code is then 0, or 1 with --strict.

The room format is NDJSON: {\"room\": {\"room_id\", \"room_version\", \"erased_users\"}}, and then, in order
of arrival, {\"event_id\", \"pdu\", \"outlier\", \"rejected\", \"soft_failed\", \"arrival\",
\"state_after\"}.")]
pub(super) struct ImportArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// Print the events whose signatures are invalid by these keys: a JSON object from server names to
    /// their answers to /_matrix/key/v2/server. The events are imported nevertheless.
    #[arg(long, env = "BACKSCROLL_SERVER_KEYS", value_name = "FILE")]
    server_keys: Option<PathBuf>,

    /// What to do with events that are held with other bytes or with another verdict. `changed` replaces
    /// both, but a held redacted form only by a redacted form; `all` also by the whole event.
    #[arg(long, env = "BACKSCROLL_REPLACE", value_name = "changed|all")]
    replace: Option<ReplaceArg>,

    /// Exit with code 1 also if an event breaks the format of its room version, or has an invalid
    /// signature by --server-keys. The event is imported nevertheless.
    #[arg(long, env = "BACKSCROLL_STRICT")]
    strict: bool,

    /// The files of the rooms.
    #[arg(required = true, value_name = "ROOM.ndjson")]
    rooms: Vec<PathBuf>,
}

/// What to do with events that are held with other bytes or with another verdict.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ReplaceArg {
    Changed,
    All,
}

impl ReplaceArg {
    fn to_wire(value: Option<Self>) -> pb::Replace {
        match value {
            None => pb::Replace::Unspecified,
            Some(Self::Changed) => pb::Replace::Changed,
            Some(Self::All) => pb::Replace::All,
        }
    }
}

/// What happened to the events of an import.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    appended: u64,
    held: u64,
    replaced: u64,
    redacted: u64,
    refused: u64,
    purged: u64,
    unreadable: u64,
    state_given: u64,
    state_unknown: u64,
    bad_signatures: u64,
}

pub(super) async fn run(args: ImportArgs) -> anyhow::Result<bool> {
    let ImportArgs { server, server_keys, replace, strict, rooms } = args;
    let replace = ReplaceArg::to_wire(replace);
    let pinned = server_keys.map(|path| PinnedKeys::read(&path)).transpose()?.map(Arc::new);
    let mut clients = connect(&server).await?;
    let importing = Importing { pinned, replace };
    let bytes = rooms.iter().map(|it| fs::metadata(it).map_or(0, |it| it.len())).sum();
    let progress = progress_bar(bytes);
    let mut total = Counts::default();
    for path in &rooms {
        let counts = import(&mut clients, path, importing.clone(), &progress)
            .await
            .with_context(|| format!("{}", path.display()))?;
        total.add(counts);
    }
    progress.finish_and_clear();
    total.print(rooms.len())?;
    let faulty = total.unreadable + total.bad_signatures;
    Ok(total.refused == 0 && (faulty == 0 || !strict))
}

fn progress_bar(bytes: u64) -> ProgressBar {
    let style = "{wide_bar} {bytes}/{total_bytes} {msg} {eta} left";
    let style =
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(bytes), progress_target()).with_style(style)
}

/// How events are imported.
#[derive(Clone)]
struct Importing {
    pinned: Option<Arc<PinnedKeys>>,
    replace: pb::Replace,
}

async fn import(
    clients: &mut Clients,
    path: &Path,
    Importing { pinned, replace }: Importing,
    progress: &ProgressBar,
) -> anyhow::Result<Counts> {
    let (header, lines) = Reader::open(BufReader::new(File::open(path)?))?;
    for user_id in &header.erased_users {
        let request = pb::SetUserErasedRequest { user_id: user_id.clone(), erased: true };
        message(clients.ingest.set_user_erased(request).await)?;
    }
    let (to_service, requests) = mpsc::channel(IN_FLIGHT);
    let bar = progress.clone();
    let name = path.display().to_string();
    let reading = tokio::spawn(async move {
        let mut bad_signatures = 0;
        // The header is line 1.
        for (number, line) in (2_u64..).zip(lines) {
            let line = line?;
            if let Some(fault) = pinned.as_ref().and_then(|pinned| pinned.fault(&header, &line)) {
                bad_signatures += 1;
                let print = || writeln!(io::stderr(), "{name}:{number}: {fault}");
                // If standard error is closed, the count at the end still shows it.
                drop(bar.suspend(print));
            }
            bar.inc(line.pdu.get().len().try_into()?);
            if to_service.send(request(&header, line, replace)).await.is_err() {
                break;
            }
        }
        anyhow::Ok(bad_signatures)
    });
    let mut responses = message(clients.ingest.append_events(ReceiverStream::new(requests)).await)?;
    let mut counts = Counts::default();
    while let Some(response) = responses.message().await.map_err(|status| service_error(&status))? {
        if let Some(fault) = counts.count(response)? {
            // The header is line 1, and each event has one response.
            let line = counts.responses() + 1;
            let print = || writeln!(io::stderr(), "{}:{line}: {fault}", path.display());
            // If standard error is closed, the exit code still shows it.
            drop(progress.suspend(print));
        }
        progress.set_message(format!("{} events", counts.appended + counts.held));
    }
    counts.bad_signatures = reading.await??;
    Ok(counts)
}

impl Counts {
    fn responses(&self) -> u64 {
        let stored = self.appended + self.held + self.replaced + self.state_given;
        stored + self.refused + self.purged
    }

    fn add(&mut self, other: Self) {
        self.appended += other.appended;
        self.held += other.held;
        self.replaced += other.replaced;
        self.redacted += other.redacted;
        self.refused += other.refused;
        self.purged += other.purged;
        self.unreadable += other.unreadable;
        self.state_given += other.state_given;
        self.state_unknown += other.state_unknown;
        self.bad_signatures += other.bad_signatures;
    }

    fn print(self, rooms: usize) -> io::Result<()> {
        let Self { appended, held, refused, .. } = self;
        out::line(format_args!(
            "{rooms} rooms: {appended} events appended, {held} held already, {refused} refused"
        ))?;
        for (count, text) in [
            (self.replaced, "were held with other bytes or another verdict, and were replaced"),
            (self.redacted, "did not match their content hash: only their redacted form is held"),
            (
                self.unreadable,
                "break the format of their room version: they are held as unreadable events",
            ),
            (self.state_given, "were held already, and took the state that was given with them"),
            (
                self.state_unknown,
                "have no known state: they are served only redacted until it is known",
            ),
            (self.bad_signatures, "have an invalid signature by --server-keys, and were imported"),
            (self.purged, "were purged here, or their room was deleted: they were not stored"),
        ] {
            if count > 0 {
                out::line(format_args!("{count} {text}"))?;
            }
        }
        Ok(())
    }

    /// Counts a response. Returns a text for people if the event was refused or is unreadable.
    fn count(&mut self, response: pb::AppendEventsResponse) -> anyhow::Result<Option<String>> {
        let pb::AppendEventsResponse { event_id, outcome } = response;
        match outcome {
            Some(Outcome::Appended(appended)) => {
                let pb::Appended { duplicate, redacted, purged, .. } = appended;
                let pb::Appended { unreadable, state_unknown, replaced, .. } = appended;
                let state_given = appended.state_given && !replaced;
                self.purged += u64::from(purged);
                self.appended += u64::from(!duplicate && !purged && !state_given && !replaced);
                self.replaced += u64::from(replaced);
                self.held += u64::from(duplicate);
                self.redacted += u64::from(redacted);
                self.unreadable += u64::from(unreadable);
                self.state_given += u64::from(state_given);
                self.state_unknown += u64::from(state_unknown);
                Ok(unreadable.then(|| {
                    format!("{event_id} is unreadable: {}", appended.unreadable_description)
                }))
            }
            Some(Outcome::Refusal(refusal)) => {
                self.refused += 1;
                let reason = refusal.reason().as_str_name();
                Ok(Some(format!("{event_id} {reason}: {}", refusal.message)))
            }
            None => bail!("the service returned an unknown outcome; it has another version"),
        }
    }
}

fn request(header: &Header, line: Line, replace: pb::Replace) -> pb::AppendEventsRequest {
    let Line { event_id, pdu, outlier, rejected, soft_failed, arrival, state_after } = line;
    let verdict = match (rejected, soft_failed) {
        (true, _) => pb::Verdict::Rejected,
        (false, true) => pb::Verdict::SoftFailed,
        (false, false) => pb::Verdict::Accepted,
    };
    pb::AppendEventsRequest {
        replace: replace.into(),
        room_id: header.room_id.clone(),
        room_version: header.room_version.clone(),
        event_id,
        pdu: String::from(Box::<str>::from(pdu)).into(),
        verdict: verdict.into(),
        outlier,
        state_after,
        arrival,
    }
}

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
Events that break the format of their room version are named too, but taken: they are walked
through, never served, and change no state; exit code 0 all the same, 1 with --strict.

An event that is held and whose state is not known takes the `state_after` of its line.

The room format is NDJSON: {\"room\": {\"room_id\", \"room_version\", \"erased_users\"}} and then, in
order of arrival, {\"event_id\", \"pdu\", \"outlier\", \"rejected\", \"soft_failed\", \"state_after\"}.")]
pub(super) struct Args {
    #[command(flatten)]
    server: ServerArgs,

    /// Name the events whose signatures do not fit these keys: a JSON object of server names and
    /// their answers to /_matrix/key/v2/server. The events are sent all the same.
    #[arg(long, env = "BACKSCROLL_SERVER_KEYS", value_name = "FILE")]
    server_keys: Option<PathBuf>,

    /// Exit code 1, too, if an event breaks the format of its room version, or its signatures do
    /// not fit --server-keys. It is taken all the same.
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
    unreadable: u64,
    state_given: u64,
    state_unknown: u64,
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
        total.add(counts);
    }
    progress.finish_and_clear();
    total.print(rooms.len())?;
    let odd = total.unreadable + total.bad_signatures;
    Ok(total.refused == 0 && (odd == 0 || !strict))
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
        if let Some(said_of_it) = counts.count(response)? {
            // The header is line 1, and every event has an answer.
            let line = counts.answered() + 1;
            let said = || writeln!(io::stderr(), "{}:{line}: {said_of_it}", path.display());
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
        self.appended + self.held + self.refused + self.purged + self.state_given
    }

    fn add(&mut self, other: Self) {
        self.appended += other.appended;
        self.held += other.held;
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
        for (count, what) in [
            (self.redacted, "did not match their content hash: their redacted form is held"),
            (self.unreadable, "break the format of their room version: they are held unreadable"),
            (self.state_given, "were held already, and took the state that came with them"),
            (self.state_unknown, "had no known state when they came: they are hidden until then"),
            (
                self.bad_signatures,
                "have a signature that does not fit --server-keys, and were sent",
            ),
            (self.purged, "were purged here, or their room deleted, and stay away"),
        ] {
            if count > 0 {
                out::line(format_args!("{count} {what}"))?;
            }
        }
        Ok(())
    }

    /// Counts an answer; gives back what to say of an event that was refused or is unreadable.
    fn count(&mut self, response: pb::AppendEventsResponse) -> anyhow::Result<Option<String>> {
        let pb::AppendEventsResponse { event_id, outcome } = response;
        match outcome {
            Some(Outcome::Appended(appended)) => {
                let pb::Appended { duplicate, redacted, purged, .. } = appended;
                let pb::Appended { unreadable, state_given, state_unknown, .. } = appended;
                self.purged += u64::from(purged);
                self.appended += u64::from(!duplicate && !purged && !state_given);
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
            None => bail!("the service answered without an outcome; is it of another version?"),
        }
    }
}

fn request(header: &Header, line: Line) -> pb::AppendEventsRequest {
    let Line { event_id, pdu, outlier, rejected, soft_failed, state_after } = line;
    let verdict = match (rejected, soft_failed) {
        (true, _) => pb::Verdict::Rejected,
        (false, true) => pb::Verdict::SoftFailed,
        (false, false) => pb::Verdict::Accepted,
    };
    pb::AppendEventsRequest {
        room_id: header.room_id.clone(),
        room_version: header.room_version.clone(),
        event_id,
        pdu: String::from(Box::<str>::from(pdu)).into(),
        verdict: verdict.into(),
        outlier,
        state_after,
        arrival: None,
    }
}

//! The command `export`: writes room files straight from the database. `docs/room-format.md` describes
//! them. Rooms are read in pages, so a large room needs no more memory than a small one.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use anyhow::Context as _;
use backscroll_matrix::cut_member;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::{
    database::{
        DatabaseFlags, Session,
        rooms_state::{erased_senders, partial_rooms, room_version, rooms_after},
        rows::{self, RoomPart},
    },
    follow::send::{StateReader, ToSend, with_states_of},
};

/// Number of events on one page.
const PAGE_EVENTS: i64 = 2_000;
/// Number of rooms that are listed at a time.
const PAGE_ROOMS: i64 = 1_000;
/// The most characters of a room id in the name of its file.
const MAX_NAME: usize = 100;

/// The flags of the command `export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
For each room, one line is printed: its file, its number of events, its id. The files can be imported:
  backscroll-synapse export --database postgresql://backscroll_follower@db/synapse --all --to rooms
  backscroll import --server http://127.0.0.1:8470 rooms/*.ndjson")]
pub(crate) struct ExportFlags {
    #[command(flatten)]
    database: DatabaseFlags,

    /// The folder to write the files into: one for each room. Files of the same rooms are replaced.
    #[arg(long, env = "BACKSCROLL_SYNAPSE_EXPORT_TO", value_name = "DIR", default_value = ".")]
    to: PathBuf,

    /// Export all rooms.
    #[arg(long, env = "BACKSCROLL_SYNAPSE_EXPORT_ALL", conflicts_with = "rooms")]
    all: bool,

    /// The ids of the rooms.
    #[arg(required_unless_present = "all", value_name = "ROOM")]
    rooms: Vec<String>,
}

/// Runs the command. Returns whether all rooms were written completely.
pub(crate) async fn run(flags: ExportFlags) -> anyhow::Result<bool> {
    let ExportFlags { database, to, all, rooms } = flags;
    let databases = database.into_databases()?;
    fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
    let session = databases.main.connect().await?;
    let mut exporter = Exporter { session, states: StateReader::new(databases.state), to };
    let mut is_complete = true;
    if !all {
        for room_id in &rooms {
            is_complete &= exporter.room(room_id).await?;
        }
        return Ok(is_complete);
    }
    let mut after = String::new();
    loop {
        let transaction = exporter.session.begin().await?;
        let rooms = rooms_after(&transaction, &after, PAGE_ROOMS).await?;
        transaction.commit().await?;
        for room_id in &rooms {
            is_complete &= exporter.room(room_id).await?;
        }
        let Some(last) = rooms.into_iter().next_back() else { return Ok(is_complete) };
        after = last;
    }
}

/// Writes rooms into a folder.
struct Exporter {
    session: Session,
    states: StateReader,
    to: PathBuf,
}

impl Exporter {
    /// Writes a room into a file. Returns false if a part of it, or the whole, was left out; then it is
    /// logged why.
    async fn room(&mut self, room_id: &str) -> anyhow::Result<bool> {
        let transaction = self.session.begin().await?;
        let version = room_version(&transaction, room_id).await?;
        let erased_users = erased_senders(&transaction, room_id).await?;
        let is_partial = !partial_rooms(&transaction, &[room_id].into()).await?.is_empty();
        transaction.commit().await?;
        let Some(room_version) = version else {
            tracing::warn!(room_id, "the database has no such room, or not its version");
            return Ok(false);
        };
        if is_partial {
            tracing::warn!(room_id, "Synapse does not know the full state of this room yet");
            return Ok(false);
        }
        let path = self.to.join(file_name(room_id));
        let part = path.with_extension("part");
        let file = File::create(&part).with_context(|| part.display().to_string())?;
        let mut out = BufWriter::new(file);
        let room = Header { room_id, room_version: &room_version, erased_users: &erased_users };
        write_line(&mut out, &FirstLine { room })?;
        let written = self.events(room_id, &mut out).await?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all().with_context(|| part.display().to_string())?;
        fs::rename(&part, &path).with_context(|| path.display().to_string())?;
        let Written { events, left_out } = written;
        writeln!(io::stdout(), "{} {events} {room_id}", path.display())?;
        Ok(left_out == 0)
    }

    async fn events(&mut self, room_id: &str, out: &mut impl Write) -> anyhow::Result<Written> {
        let mut written = Written::default();
        let mut after = i64::MIN;
        let mut arrival = 0;
        loop {
            let transaction = self.session.begin().await?;
            let part = RoomPart { room_id, after, limit: PAGE_EVENTS };
            let page = rows::of_room_part(&transaction, part).await?;
            let Some(last) = page.last() else { return Ok(written) };
            after = last.stream_ordering;
            let page = with_states_of(&mut self.states, &transaction, page).await?;
            transaction.commit().await?;
            for event in &page {
                match Pdu::of(&event.row.json) {
                    Some(pdu) => {
                        write_line(&mut *out, &EventLine::new(event, &pdu.0, arrival))?;
                        arrival = event.row.stream_ordering.saturating_add(1);
                        written.events = written.events.saturating_add(1);
                    }
                    None => {
                        let event_id = &event.row.event_id;
                        tracing::warn!(room_id, event_id, "an event is no JSON object: left out");
                        written.left_out = written.left_out.saturating_add(1);
                    }
                }
            }
        }
    }
}

/// The number of events of a room.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    /// Events in the file.
    events: u64,
    /// Events that are not JSON objects.
    left_out: u64,
}

#[derive(Serialize)]
struct FirstLine<'a> {
    room: Header<'a>,
}

/// The header of a room file.
#[derive(Serialize)]
struct Header<'a> {
    room_id: &'a str,
    room_version: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    erased_users: &'a [String],
}

/// The text of an event without `unsigned`; all other bytes are unchanged, except that line breaks
/// between members are spaces.
struct Pdu(Box<RawValue>);

impl Pdu {
    fn of(json: &str) -> Option<Self> {
        let text = cut_member(json, "unsigned")?.replace(['\n', '\r'], " ");
        RawValue::from_string(text).ok().map(Self)
    }
}

/// The line of an event in a room file.
#[derive(Serialize)]
struct EventLine<'a> {
    event_id: &'a str,
    pdu: &'a RawValue,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    outlier: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rejected: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    soft_failed: bool,
    /// `None` if it is one more than that of the event before, or 0 for the first event.
    #[serde(skip_serializing_if = "Option::is_none")]
    arrival: Option<i64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    state_after: &'a [String],
}

impl<'a> EventLine<'a> {
    /// `expected` is the arrival number that the event has if the line does not contain one.
    fn new(event: &'a ToSend, pdu: &'a RawValue, expected: i64) -> Self {
        let ToSend { row, state_after } = event;
        Self {
            event_id: &row.event_id,
            pdu,
            outlier: row.outlier,
            rejected: row.rejected,
            // A file has one verdict for an event, and rejected is the stronger one.
            soft_failed: row.soft_failed && !row.rejected,
            arrival: Some(row.stream_ordering).filter(|it| *it != expected),
            state_after,
        }
    }
}

fn write_line(mut out: impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")
}

/// The name of the file of a room: its id, as far as every file system takes it, and a hash that makes
/// it unique.
fn file_name(room_id: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '.' | '-');
    let plain = |it| if is_plain(it) { it } else { '_' };
    let readable: String = room_id.chars().map(plain).take(MAX_NAME).collect();
    let hash = Sha256::digest(room_id.as_bytes());
    let hash = hash.first_chunk().map_or(0, |it| u32::from_be_bytes(*it));
    format!("{readable}-{hash:08x}.ndjson")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::rows::EventRow;

    fn event(json: &str, state_after: &[&str]) -> ToSend {
        let row = EventRow {
            event_id: "$e\"1".to_owned(),
            room_id: "!r:b".to_owned(),
            room_version: Some("1".to_owned()),
            stream_ordering: -3,
            outlier: false,
            rejected: true,
            soft_failed: true,
            json: json.to_owned(),
            state_group: None,
        };
        ToSend { row, state_after: state_after.iter().map(|it| (*it).to_owned()).collect() }
    }

    fn line(event: &ToSend) -> String {
        let pdu = Pdu::of(&event.row.json).unwrap();
        let mut out = Vec::new();
        write_line(&mut out, &EventLine::new(event, &pdu.0, -3)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn bytes_stay_as_they_are_without_unsigned() {
        let json = r#"{"b":1.50,"unsigned":{"age":1},"a":"\u0000\ud800"}"#;
        let written = line(&event(json, &["$s"]));
        let expected = r#"{"event_id":"$e\"1","pdu":{"b":1.50,"a":"\u0000\ud800"},"rejected":true,"state_after":["$s"]}"#;
        assert_eq!(written, format!("{expected}\n"));
    }

    #[test]
    fn an_arrival_number_is_written_if_it_does_not_follow() {
        let event = event("{}", &[]);
        let pdu = Pdu::of(&event.row.json).unwrap();
        assert_eq!(EventLine::new(&event, &pdu.0, -3).arrival, None);
        assert_eq!(EventLine::new(&event, &pdu.0, 0).arrival, Some(-3));
    }

    #[test]
    fn an_event_is_one_line() {
        let written = line(&event("{\n\"a\":\r\n1\n}", &[]));
        assert_eq!(written, "{\"event_id\":\"$e\\\"1\",\"pdu\":{ \"a\":  1 },\"rejected\":true}\n");
        assert!(Pdu::of("[]").is_none());
        assert!(Pdu::of("{").is_none());
    }

    #[test]
    fn file_names_are_plain_unique_and_short() {
        assert_eq!(file_name("!a/b:example.org"), "_a_b_example.org-5f9bf6c7.ndjson");
        assert_ne!(file_name("!a/b:c"), file_name("!a_b:c"));
        assert!(file_name(&"ä".repeat(200)).len() < 140);
    }
}

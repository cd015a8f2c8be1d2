//! The room format: a room as a file that does not depend on any store. `docs/room-format.md`
//! describes it.
//!
//! The file is NDJSON in UTF-8. The first line is the header; each other line is an event, in the
//! order of arrival:
//!
//! ```text
//! {"room": {"room_id": "!r:example.org", "room_version": "10", "erased_users": ["@gone:example.org"]}}
//! {"event_id": "$...", "pdu": {...}, "outlier": true, "rejected": true, "soft_failed": true, "arrival": 7, "state_after": ["$...", ...]}
//! ```
//!
//! `pdu` is the event as servers exchange it, without `unsigned`, byte for byte. The flags are the
//! homeserver's verdict, absent when false. `state_after` is given where a predecessor is not in the
//! file: the ids of all state events after this one.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The header: the first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The id of the room.
    pub room_id: String,
    /// The version of the room.
    pub room_version: String,
    /// The users of the room who asked for erasure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erased_users: Vec<String>,
}

/// The line of an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// The id of the event.
    pub event_id: String,
    /// The JSON text of the event.
    pub pdu: Box<RawValue>,
    /// The event is held, but not placed in the graph.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outlier: bool,
    /// The event failed the authorisation rules.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rejected: bool,
    /// The event failed the authorisation rules against the current state only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub soft_failed: bool,
    /// The arrival number of the event. `None` in a file means one more than that of the event before.
    /// Before the first number of the file it means that the event is placed after all events that the
    /// room holds: in an empty room the first event gets 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<i64>,
    /// The ids of all state events after this event, where a predecessor is not in the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state_after: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct FirstLine {
    room: Header,
}

/// An error in a room's file.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is empty.
    #[error("line 1: the header is missing; a room begins with {{\"room\": {{…}}}}")]
    NoHeader,
    /// A line is malformed.
    #[error("line {line}: {source}")]
    Line {
        /// The number of the line, from 1.
        line: usize,
        /// The error of the JSON parser.
        source: serde_json::Error,
    },
}

/// Reads the file of a room.
pub struct Reader<R> {
    lines: io::Lines<R>,
    line: usize,
    /// The arrival number of the last event; `None` before the first number of the file.
    arrival: Option<i64>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header, and returns it with a reader of the events.
    ///
    /// # Errors
    /// When the file has no valid header.
    pub fn open(from: R) -> Result<(Header, Self), FormatError> {
        let mut lines = from.lines();
        let first = lines.next().ok_or(FormatError::NoHeader)??;
        let header: FirstLine =
            serde_json::from_str(&first).map_err(|source| FormatError::Line { line: 1, source })?;
        Ok((header.room, Self { lines, line: 1, arrival: None }))
    }
}

impl<R> Reader<R> {
    /// Gives an event the number after that of the event before, unless it has a number of its own, or
    /// the file had none so far.
    fn numbered(&mut self, line: Line) -> Line {
        let next = self.arrival.map(|it| it.saturating_add(1));
        self.arrival = line.arrival.or(next);
        Line { arrival: self.arrival, ..line }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Line, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let text = match self.lines.next()? {
                Ok(text) => text,
                Err(error) => return Some(Err(error.into())),
            };
            self.line += 1;
            if !text.trim().is_empty() {
                let line = self.line;
                let parsed = serde_json::from_str(&text);
                let numbered = parsed.map(|it| self.numbered(it));
                return Some(numbered.map_err(|source| FormatError::Line { line, source }));
            }
        }
    }
}

/// Writes the header of a room.
pub fn write_header(mut to: impl Write, header: &Header) -> io::Result<()> {
    serde_json::to_writer(&mut to, &FirstLine { room: header.clone() })?;
    to.write_all(b"\n")
}

/// Writes an event. Its text stays as it is, except that line breaks become spaces; in JSON they occur
/// only between tokens.
pub fn write_line(mut to: impl Write, line: &Line) -> io::Result<()> {
    let text = serde_json::to_string(line)?;
    to.write_all(text.replace(['\n', '\r'], " ").as_bytes())?;
    to.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: &str = r#"{"room":{"room_id":"!a:b","room_version":"1"}}
{"event_id":"$1","pdu":{"z":1.50,"a":[]}}
{"event_id":"$2","pdu":{},"rejected":true,"state_after":["$1","$2"]}
"#;

    #[test]
    fn a_room_round_trips() {
        let (header, lines) = Reader::open(ROOM.as_bytes()).unwrap();
        let mut out = Vec::new();
        write_header(&mut out, &header).unwrap();
        for line in lines {
            write_line(&mut out, &line.unwrap()).unwrap();
        }
        assert_eq!(String::from_utf8(out).unwrap(), ROOM);
    }

    #[test]
    fn a_fault_names_its_line() {
        let fault = |text: &str| match Reader::open(text.as_bytes()) {
            Err(error) => error.to_string(),
            Ok((_, lines)) => lines.filter_map(Result::err).map(|it| it.to_string()).collect(),
        };
        assert!(fault("").starts_with("line 1: the header is missing"));
        assert!(fault("{}").starts_with("line 1: missing field `room`"));
        let text = format!("{ROOM}\nnonsense\n");
        assert!(fault(&text).starts_with("line 5: "), "{}", fault(&text));
    }
}

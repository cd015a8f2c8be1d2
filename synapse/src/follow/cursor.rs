//! The place from which the follower continues, as it is stored in the history service.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::{late::LateCursor, sweep::SweepCursor};
use crate::database::positions::{Direction, Position};

/// The version of the format.
const FORMAT: u32 = 1;
/// The largest cursor that the history service stores, in bytes.
const MAX_BYTES: usize = 64 * 1_024;

/// The place from which the follower continues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// The version of the format.
    format: u32,
    /// Which database this is: the number of its cluster, and its own number in it.
    pub(crate) database: String,
    /// Whether all rooms that were there at the first start were marked as not served until they are
    /// copied. The history service keeps the marks.
    pub(crate) rooms_marked: bool,
    /// Everything up to this stream ordering was taken.
    pub(crate) events: i64,
    /// Everything down to this negative stream ordering was taken.
    pub(crate) backfill: i64,
    /// Everything up to this number of `un_partial_stated_event_stream` was taken.
    pub(crate) un_partial_stated: i64,
    /// The positions of the writers, by stream and writer.
    pub(crate) positions: BTreeMap<String, i64>,
    /// Where the reading of the invalidation stream continues.
    pub(crate) late: Option<LateCursor>,
    /// What the sweeps have done.
    pub(crate) sweep: SweepCursor,
    /// When following began, in milliseconds since 1970 by the clock of the database; 0 until then.
    pub(crate) began_ms: i64,
}

impl Cursor {
    /// A cursor for a first start on this database.
    pub(crate) fn new(database: String) -> Self {
        Self {
            format: FORMAT,
            database,
            rooms_marked: false,
            events: 0,
            backfill: 0,
            un_partial_stated: 0,
            positions: BTreeMap::new(),
            late: None,
            sweep: SweepCursor::default(),
            began_ms: 0,
        }
    }

    /// Reads a cursor. `None` if there is none yet.
    ///
    /// # Errors
    /// When a later version of the follower has written it.
    pub(crate) fn parse(bytes: &[u8]) -> anyhow::Result<Option<Self>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let cursor: Self = serde_json::from_slice(bytes)
            .context("the cursor in the history service is not one of this follower")?;
        ensure!(
            cursor.format == FORMAT,
            "the cursor in the history service has format {}, and this version knows format {FORMAT}",
            cursor.format
        );
        Ok(Some(cursor))
    }

    /// The cursor as bytes.
    ///
    /// # Errors
    /// When it is larger than the history service stores.
    pub(crate) fn to_bytes(&self) -> anyhow::Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self)?;
        ensure!(bytes.len() <= MAX_BYTES, "the cursor has {} bytes", bytes.len());
        Ok(bytes)
    }

    /// Notes the positions of writers. Returns a position that is before the one noted last: then the
    /// database has gone back in time. Positions of writers that are absent now are kept.
    pub(crate) fn note_positions(&mut self, positions: &[Position]) -> Option<Position> {
        let mut back = None;
        for position in positions {
            let key = format!("{}/{}", position.stream, position.writer);
            let known = self.positions.entry(key).or_insert(position.number);
            let is_back = match position.direction() {
                Direction::Up => position.number < *known,
                Direction::Down => position.number > *known,
            };
            *known = position.number;
            if is_back {
                back = Some(position.clone());
            }
        }
        back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(stream: &str, writer: &str, number: i64) -> Position {
        Position { stream: stream.to_owned(), writer: writer.to_owned(), number }
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let mut cursor = Cursor::new("7/5".to_owned());
        cursor.events = 12;
        cursor.note_positions(&[position("events", "master", 14)]);
        assert_eq!(Cursor::parse(&cursor.to_bytes().unwrap()).unwrap(), Some(cursor));
        assert_eq!(Cursor::parse(b"").unwrap(), None);
    }

    #[test]
    fn a_cursor_of_a_later_version_is_refused() {
        let cursor = Cursor { format: 2, ..Cursor::new(String::new()) };
        assert!(Cursor::parse(&cursor.to_bytes().unwrap()).is_err());
        assert!(Cursor::parse(b"x").is_err());
    }

    #[test]
    fn a_lower_position_of_the_same_writer_is_found() {
        let mut cursor = Cursor::new(String::new());
        let mut note = |stream, writer, number| {
            cursor.note_positions(&[position(stream, writer, number)]).is_some()
        };
        assert!(!note("events", "master", 14));
        assert!(!note("events", "ep1", 9));
        assert!(!note("events", "master", 14));
        assert!(note("events", "master", 13));
        assert!(!note("backfill", "master", -5));
        assert!(!note("backfill", "master", -7));
        assert!(note("backfill", "master", -6));
    }
}

//! Content of redacted events that is to be removed from the disk: which events, and since when.
//!
//! The record of an event is written in the decision that redacts it, without a time. The worker that
//! removes content notes the time when it sees the record first. So decisions need no clock.

use super::{
    Edit, EventNum, RoomNum, Store, StoreError, View,
    codec::{Decoder, Encoder, Malformed, add_checksum, strip_checksum},
    engine::StoredValue,
    keys,
};
use crate::{num, sync::lock};

/// An event whose content is to be removed if it is still redacted when the time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentDue {
    /// The room of the event.
    pub room: RoomNum,
    /// The event.
    pub event: EventNum,
    /// When the worker saw the record first, in milliseconds since 1970; `None` if it has not yet.
    pub since_ms: Option<u64>,
}

/// The parts of an event that redaction removes, and that deriving needs all the same. They stay when
/// the content is removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// The id of the event that a redaction redacts. In room versions 1 to 10, the redacted form of a
    /// redaction does not contain it.
    pub redacts: Option<String>,
    /// The members of the content that authorisation rules read, as a JSON object.
    pub content: Option<String>,
}

impl Remains {
    /// Whether nothing stays.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.redacts.is_none() && self.content.is_none()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.text(self.redacts.as_deref().unwrap_or_default());
        out.text(self.content.as_deref().unwrap_or_default());
        out.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder(bytes);
        let text = |text: &str| Some(text.to_owned()).filter(|it| !it.is_empty());
        let remains = Self { redacts: text(from.text()?), content: text(from.text()?) };
        from.end()?;
        Ok(remains)
    }
}

/// How many redacted events have content on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentDueCount {
    /// The number of such events.
    pub events: u64,
    /// The earliest time at which the worker saw one of them first, in milliseconds since 1970;
    /// `None` if it has seen none.
    pub oldest_ms: Option<u64>,
}

/// The position up to which a store from before format 5 was searched for redacted events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedactedSearch {
    /// The search has not begun.
    #[default]
    Begin,
    /// Rooms with a smaller number were searched, and the events of this room before the given one.
    At {
        /// The room.
        room: RoomNum,
        /// The next event of the room.
        next: EventNum,
    },
    /// All rooms were searched.
    Done,
}

impl Store {
    /// Events whose content is to be removed, in the order of rooms and events, those after `after`,
    /// at most `limit`. Damaged records are left out; `verify` reports them.
    pub fn content_due(
        &self,
        after: Option<ContentDue>,
        limit: usize,
    ) -> Result<Vec<ContentDue>, StoreError> {
        let mut after = after.map(|it| keys::content_due(it.room, it.event));
        loop {
            let records = self.scan(&keys::all_content(), after.as_deref(), limit)?;
            let due = records.iter().filter(|(key, _)| keys::is_content_due(key));
            let due: Vec<_> = due.filter_map(|(key, value)| content_due_of(key, value)).collect();
            after = records.last().map(|(key, _)| key.clone());
            if !due.is_empty() || after.is_none() {
                return Ok(due);
            }
        }
    }

    /// Counts the redacted events that have content on disk, up to `limit`.
    pub fn count_content_due(&self, limit: usize) -> Result<ContentDueCount, StoreError> {
        const AT_ONCE: usize = 1_000;
        let mut count = ContentDueCount::default();
        let mut after = None;
        while count.events < num::u64(limit) {
            let page = self.content_due(after, AT_ONCE)?;
            after = page.last().copied();
            if after.is_none() {
                break;
            }
            count.events += num::u64(page.len());
            let oldest = page.iter().filter_map(|it| it.since_ms).chain(count.oldest_ms).min();
            count.oldest_ms = oldest;
        }
        Ok(count)
    }

    /// How far the store was searched for events that were redacted before format 5.
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn redacted_search(&self) -> Result<RedactedSearch, StoreError> {
        let search = self.read("search", &keys::redacted_search(), RedactedSearch::decode)?;
        match search.unwrap_or_default() {
            // Numbers of rooms mean nothing to other processes, nor to this one after a restart.
            RedactedSearch::Begin | RedactedSearch::At { .. } if self.is_shared() => {
                Ok(*lock(&self.redacted_search))
            }
            search => Ok(search),
        }
    }

    /// Records how far the store was searched for events that were redacted before format 5. Without
    /// a flush.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn put_redacted_search(&self, search: RedactedSearch) -> Result<(), StoreError> {
        if self.is_shared() && search != RedactedSearch::Done {
            *lock(&self.redacted_search) = search;
            return Ok(());
        }
        let key = keys::redacted_search();
        let value = add_checksum(&key, search.encode());
        self.engine.put([(key, Some(value.into()))].into())
    }
}

impl RedactedSearch {
    fn encode(self) -> Vec<u8> {
        let mut out = Encoder::default();
        match self {
            Self::Begin => {}
            Self::At { room, next } => {
                out.byte(0);
                out.number(room.0.into());
                out.number(next.0.into());
            }
            Self::Done => out.byte(1),
        }
        out.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.is_empty() {
            return Ok(Self::Begin);
        }
        let mut from = Decoder(bytes);
        let search = match from.byte()? {
            0 => Self::At { room: RoomNum(from.small()?), next: EventNum(from.small()?) },
            1 => Self::Done,
            _ => return Err(Malformed),
        };
        from.end()?;
        Ok(search)
    }
}

impl Edit<'_> {
    /// Notes that the content of a redacted event is to be removed, unless that is noted already.
    ///
    /// # Errors
    /// When the store fails.
    pub fn note_content_due(&mut self, event: EventNum) -> Result<(), StoreError> {
        let key = keys::content_due(self.number, event);
        if self.value(&key)?.is_none() {
            self.put(key, Vec::new());
        }
        Ok(())
    }

    /// Notes since when the content of an event is to be removed, in milliseconds since 1970.
    pub fn put_content_since(&mut self, event: EventNum, since_ms: u64) {
        let mut out = Encoder::default();
        out.number(since_ms);
        self.put(keys::content_due(self.number, event), out.finish());
    }

    /// Removes the note that the content of an event is to be removed.
    pub fn remove_content_due(&mut self, event: EventNum) {
        self.remove(keys::content_due(self.number, event));
    }

    /// Whether the content of an event is to be removed.
    ///
    /// # Errors
    /// When the store fails.
    pub fn is_content_due(&self, event: EventNum) -> Result<bool, StoreError> {
        Ok(self.value(&keys::content_due(self.number, event))?.is_some())
    }

    /// Since when the content of an event is to be removed, in milliseconds since 1970: `Some(None)` if
    /// the worker has not seen the note yet, `None` if there is no note.
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn content_since(&self, event: EventNum) -> Result<Option<Option<u64>>, StoreError> {
        self.read("content that is due", &keys::content_due(self.number, event), decode_since)
    }

    /// Stores what stays of an event whose content is removed.
    pub fn put_remains(&mut self, event: EventNum, remains: &Remains) {
        self.put(keys::remains(self.number, event), remains.encode());
    }

    /// Removes both records about the content of an event that leaves the room.
    pub(super) fn forget_content(&mut self, event: EventNum) {
        self.remove(keys::content_due(self.number, event));
        self.remove(keys::remains(self.number, event));
    }
}

fn content_due_of(key: &[u8], value: &StoredValue) -> Option<ContentDue> {
    let since_ms = strip_checksum(key, value).and_then(decode_since).ok()?;
    Some(ContentDue { room: keys::room_of(key)?, event: keys::of_content(key)?, since_ms })
}

fn decode_since(bytes: &[u8]) -> Result<Option<u64>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut from = Decoder(bytes);
    let since = from.number()?;
    from.end()?;
    Ok(Some(since))
}

//! Late changes: the homeserver changes rows in place, and says so in its stream of invalid cache
//! entries (`cache_invalidation_stream_by_instance`).
//!
//! The stream has no position below which all rows are visible: a transaction takes its ids when it
//! begins, and its rows are visible when it ends. But the ids have no gaps. So every row is read once,
//! when it is first visible, and ids that are skipped are asked for again, for ten minutes. After that,
//! their transactions were rolled back.

mod mend;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_postgres::Transaction;

pub(crate) use self::mend::mend;
use crate::database::caches::{self, IdBounds, InvalidationRow, Wanted};

/// How long a skipped id is asked for again: longer than any transaction of the homeserver takes.
const GAP_LIFETIME: Duration = Duration::from_secs(600);
/// The most skipped ids that are remembered.
const MAX_GAPS: usize = 10_000;
/// The most ranges of skipped ids in a cursor, some 40 bytes each.
const MAX_CURSOR_GAPS: usize = 400;
/// The number of ids before the end of the stream that may still become visible when following begins.
const BEGIN_WITH_IDS: i64 = 1_000;
/// The functions whose rows are a late change.
const FUNCTIONS: [&str; 8] = [
    "_get_event_cache",
    "_get_state_group_for_event",
    "have_seen_event",
    "ph_cache_fake",
    "dr_cache_fake",
    "is_user_erased",
    "is_room_blocked",
    "is_partial_state_room",
];

/// Why a room is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RoomSignal {
    /// History of the room was purged.
    Purged,
    /// The room was deleted. It may be back already.
    Deleted,
}

/// What a sweep compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SweepKind {
    /// Which events are held, and their flags.
    Flags,
    /// Their bytes too: every event is appended again.
    Bytes,
}

/// What one row of the stream demands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LateChange {
    /// Nothing.
    Nothing,
    /// To read an event again. The room is known only if the row contains it.
    Event { event_id: String, room_id: Option<String> },
    /// To compare a room.
    Room { room_id: String, signal: RoomSignal },
    /// To compare the small tables now.
    SmallTables,
    /// To sweep all rooms: the row does not say what changed.
    All(SweepKind),
}

/// What a row demands, by its function and its keys. A row without keys says that every entry of a cache
/// is invalid.
fn demanded(function: &str, keys: Option<Vec<String>>) -> LateChange {
    let is_of_bytes = function == "_get_event_cache";
    let mut keys = keys.unwrap_or_default().into_iter();
    match (function, keys.next(), keys.next()) {
        ("_get_event_cache" | "_get_state_group_for_event", Some(event_id), _) => {
            LateChange::Event { event_id, room_id: None }
        }
        ("have_seen_event", Some(room_id), Some(event_id)) => {
            LateChange::Event { event_id, room_id: Some(room_id) }
        }
        ("have_seen_event" | "ph_cache_fake", Some(room_id), _) => {
            LateChange::Room { room_id, signal: RoomSignal::Purged }
        }
        ("dr_cache_fake", Some(room_id), _) => {
            LateChange::Room { room_id, signal: RoomSignal::Deleted }
        }
        ("is_user_erased" | "is_room_blocked" | "is_partial_state_room", ..) => {
            LateChange::SmallTables
        }
        (function, None, _) if FUNCTIONS.contains(&function) => {
            LateChange::All(if is_of_bytes { SweepKind::Bytes } else { SweepKind::Flags })
        }
        _ => LateChange::Nothing,
    }
}

/// What a tick looks at again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LookAgain {
    /// Events to read again, with their rooms where those are known.
    pub(crate) events: BTreeMap<String, Option<String>>,
    /// Rooms to compare.
    pub(crate) rooms: BTreeMap<String, RoomSignal>,
    /// Whether to compare the small tables now.
    pub(crate) small_tables: bool,
    /// A sweep of all rooms that is owed: some changes are not known one by one.
    pub(crate) sweep_owed: Option<SweepKind>,
    /// The number of rows by function, for metrics.
    pub(crate) rows: BTreeMap<&'static str, u64>,
}

impl LookAgain {
    fn add(&mut self, function: &str, keys: Option<Vec<String>>) {
        if let Some(name) = FUNCTIONS.into_iter().find(|it| *it == function) {
            *self.rows.entry(name).or_default() += 1;
        }
        match demanded(function, keys) {
            LateChange::Nothing => {}
            LateChange::Event { event_id, room_id } => {
                let known = self.events.entry(event_id).or_default();
                *known = room_id.or(known.take());
            }
            LateChange::Room { room_id, signal } => {
                let known = self.rooms.entry(room_id).or_insert(signal);
                *known = signal.max(*known);
            }
            LateChange::SmallTables => self.small_tables = true,
            LateChange::All(kind) => self.owe(kind),
        }
    }

    fn merge(&mut self, other: Self) {
        let Self { events, rooms, small_tables, sweep_owed, rows } = other;
        for (event_id, room_id) in events {
            let known = self.events.entry(event_id).or_default();
            *known = room_id.or(known.take());
        }
        for (room_id, signal) in rooms {
            let known = self.rooms.entry(room_id).or_insert(signal);
            *known = signal.max(*known);
        }
        self.small_tables |= small_tables;
        self.sweep_owed = self.sweep_owed.max(sweep_owed);
        for (name, count) in rows {
            *self.rows.entry(name).or_default() += count;
        }
    }

    fn owe(&mut self, kind: SweepKind) {
        self.sweep_owed = self.sweep_owed.max(Some(kind));
    }
}

/// The place in the stream, as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LateCursor {
    /// The highest id that was read.
    high: i64,
    /// The ranges of skipped ids below it.
    gaps: Vec<IdRange>,
}

/// A range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct IdRange {
    first: i64,
    last: i64,
}

/// The place in the stream of invalid cache entries.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LateStream {
    high: i64,
    /// The skipped ids, and when each was skipped.
    gaps: BTreeMap<i64, Instant>,
}

impl LateStream {
    /// Continues at a cursor.
    #[must_use]
    fn resume(cursor: &LateCursor, now: Instant) -> Self {
        let ids = cursor.gaps.iter().flat_map(|it| it.first..=it.last).take(MAX_GAPS);
        Self { high: cursor.high, gaps: ids.map(|id| (id, now)).collect() }
    }

    /// The place to store. With too many gaps it is before the first of them: rows are then read twice,
    /// which changes nothing.
    #[must_use]
    fn cursor(&self) -> LateCursor {
        let mut gaps: Vec<IdRange> = Vec::new();
        for id in self.gaps.keys().copied() {
            match gaps.last_mut() {
                Some(range) if range.last.checked_add(1) == Some(id) => range.last = id,
                _ => gaps.push(IdRange { first: id, last: id }),
            }
        }
        match self.gaps.keys().next() {
            Some(first) if gaps.len() > MAX_CURSOR_GAPS => {
                LateCursor { high: first.saturating_sub(1), gaps: Vec::new() }
            }
            _ => LateCursor { high: self.high, gaps },
        }
    }

    /// Takes rows that were read. Rows that were taken before are ignored.
    fn take(&mut self, rows: Vec<InvalidationRow>, now: Instant) -> LookAgain {
        let mut changes = LookAgain::default();
        self.gaps.retain(|_, since| now.duration_since(*since) < GAP_LIFETIME);
        let rows: BTreeMap<i64, InvalidationRow> = rows.into_iter().map(|it| (it.id, it)).collect();
        for (id, InvalidationRow { function, keys, .. }) in rows {
            if id > self.high {
                self.skip_to(id, now, &mut changes);
            } else if self.gaps.remove(&id).is_none() {
                continue;
            }
            changes.add(&function, keys);
        }
        changes
    }

    /// Moves the highest id, and remembers the ids in between. If they are too many, everything that
    /// their rows may say is owed.
    fn skip_to(&mut self, id: i64, now: Instant, changes: &mut LookAgain) {
        let skipped = self.high.saturating_add(1)..id;
        let count = id.saturating_sub(self.high).saturating_sub(1);
        let space = MAX_GAPS.saturating_sub(self.gaps.len());
        if usize::try_from(count).is_ok_and(|it| it <= space) {
            self.gaps.extend(skipped.map(|it| (it, now)));
        } else {
            changes.owe(SweepKind::Bytes);
        }
        self.high = id;
    }

    /// Begins at the end of the stream, for a first import. `last_ids` are the last ids that are
    /// visible: others in between, or below them, may become visible later.
    fn of_last_ids(last_ids: &BTreeSet<i64>, now: Instant) -> Self {
        let high = last_ids.last().copied().unwrap_or_default();
        let first = high.saturating_sub(BEGIN_WITH_IDS).max(1);
        let skipped = (first..high).filter(|it| !last_ids.contains(it));
        Self { high, gaps: skipped.map(|it| (it, now)).collect() }
    }

    /// What is owed when the stream is read again after an absence: rows are deleted after seven days.
    fn absence(&self, bounds: IdBounds) -> Option<Absence> {
        if bounds.highest.is_some_and(|it| it < self.high) {
            Some(Absence::WentBack)
        } else if self.high == 0 || bounds.lowest.is_some_and(|it| it <= self.high) {
            None
        } else {
            Some(Absence::TooLong)
        }
    }
}

/// Reads the stream, and keeps the place up to which everything was acknowledged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Late {
    /// `None` until the first tick: the stream is then read from its end.
    acknowledged: Option<LateStream>,
    read: Option<LateStream>,
}

impl Late {
    /// Continues from a cursor. `None` at the first start: begins with what is written from now on.
    #[must_use]
    pub(crate) fn new(cursor: Option<LateCursor>) -> Self {
        let acknowledged = cursor.map(|it| LateStream::resume(&it, Instant::now()));
        Self { acknowledged, read: None }
    }

    /// Reads what is new. The same is returned again until [`Self::acknowledge`] is called.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn read(
        &mut self,
        transaction: &Transaction<'_>,
    ) -> Result<LookAgain, tokio_postgres::Error> {
        let now = Instant::now();
        let mut stream = match &self.acknowledged {
            Some(stream) => stream.clone(),
            None => {
                LateStream::of_last_ids(&caches::last_ids(transaction, BEGIN_WITH_IDS).await?, now)
            }
        };
        let mut all = LookAgain::default();
        loop {
            let gaps: Vec<i64> = stream.gaps.keys().copied().collect();
            let wanted = Wanted { above: stream.high, ids: &gaps, with_keys: &FUNCTIONS };
            let page = caches::read(transaction, wanted).await?;
            let is_last = page.is_last;
            all.merge(stream.take(page.rows, now));
            if is_last {
                break;
            }
        }
        self.read = Some(stream);
        Ok(all)
    }

    /// Returns why all rooms must be swept, if rows were lost since the cursor was stored. Called when
    /// following begins again.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn absence(
        &self,
        transaction: &Transaction<'_>,
    ) -> Result<Option<Absence>, tokio_postgres::Error> {
        let Some(stream) = &self.acknowledged else { return Ok(None) };
        Ok(stream.absence(caches::id_bounds(transaction).await?))
    }

    /// What was read last is done: the history service has acknowledged it.
    pub(crate) fn acknowledge(&mut self) {
        if let Some(stream) = self.read.take() {
            self.acknowledged = Some(stream);
        }
    }

    /// Where the next start continues. `None` before the first tick was acknowledged.
    #[must_use]
    pub(crate) fn cursor(&self) -> Option<LateCursor> {
        self.acknowledged.as_ref().map(LateStream::cursor)
    }
}

/// Why a sweep is owed after an absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// Rows of the stream were deleted before they were read.
    TooLong,
    /// The highest id is lower than before: the database was set back.
    WentBack,
}

impl Absence {
    /// Why all rooms must be swept, for people.
    #[must_use]
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::TooLong => "the follower was away for longer than Synapse keeps its late changes",
            Self::WentBack => "the database was set back to an earlier time",
        }
    }
}

#[cfg(test)]
mod tests;

//! Reads of single records, and reading ahead: what is not in memory, in one round trip.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio_postgres::Row as DatabaseRow;

use super::{
    super::{Ahead, StoredValue},
    Asked, Postgres,
    database::{Epoch, Flight, Param, Selected, Statement},
    layout::{self, RoomUuid, RowKey, Table},
    listing::{self, Range},
    rooms::{KnownRoom, Now, RoomRow},
    words::{WordRow, Words},
};
use crate::store::{
    EngineError, RoomNum, StoreError,
    keys::{self, Scope},
};

/// The columns of a [`RoomRow`].
pub(super) const ROOM_COLUMNS: &str = "stamp, life, made, name, gone, value";

impl Postgres {
    /// The value of a key.
    pub(in super::super) fn read(&self, key: &[u8]) -> Result<Option<StoredValue>, StoreError> {
        let scope = keys::scope(key);
        match scope {
            Scope::Everything | Scope::AllRooms { .. } => Ok(None),
            Scope::RoomNumbers(_) => Ok(self.see(key.to_vec())?.value),
            Scope::Store | Scope::Room { .. } => {
                if let Scope::Room { room, .. } = scope
                    && let Some(value) = in_memory(self, &*self.known(room)?, key)
                {
                    return Ok(value);
                }
                let found = self.read_many(&[key.to_vec()])?;
                Ok(found.into_iter().next().flatten())
            }
        }
    }

    /// The values of several keys: one round trip for all that are not in memory.
    pub(in super::super) fn read_many(
        &self,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<StoredValue>>, StoreError> {
        let mut found: Vec<Option<Option<StoredValue>>> = Vec::with_capacity(keys.len());
        let mut plan = ReadPlan::default();
        for key in keys {
            let value = match keys::scope(key) {
                Scope::Room { room, .. } => {
                    let known = self.known(room)?;
                    let value = in_memory(self, &known, key);
                    if value.is_none() {
                        plan.add_key(&known, key);
                    }
                    value
                }
                Scope::RoomNumbers(_) => Some(self.see(key.clone())?.value),
                Scope::Store => {
                    plan.of_store.insert(key.clone());
                    None
                }
                Scope::Everything | Scope::AllRooms { .. } => Some(None),
            };
            found.push(value);
        }
        let read = self.fly(plan)?;
        let values = found
            .into_iter()
            .zip(keys)
            .map(|(known, key)| known.unwrap_or_else(|| read.records.get(key).cloned()));
        Ok(values.collect())
    }

    /// Whether reading a record takes no round trip.
    pub(in super::super) fn is_in_memory(&self, key: &[u8]) -> bool {
        let Scope::Room { room, .. } = keys::scope(key) else { return false };
        self.rooms.of_number(room).is_some_and(|it| in_memory(self, &it, key).is_some())
    }

    /// Reads records and whole prefixes that are not in memory, in one round trip.
    pub(in super::super) fn read_ahead(&self, ahead: &Ahead) -> Result<(), StoreError> {
        let mut plan = ReadPlan::default();
        for key in &ahead.keys {
            let Scope::Room { room, .. } = keys::scope(key) else { continue };
            let known = self.known(room)?;
            if in_memory(self, &known, key).is_none() {
                plan.add_key(&known, key);
            }
        }
        for prefix in &ahead.prefixes {
            let Scope::Room { room, .. } = keys::scope(prefix) else { continue };
            let known = self.known(room)?;
            let tick = known.tick();
            if tick.is_some_and(|it| self.records.list(it, prefix).is_none()) {
                plan.add_prefix(&known, prefix);
            }
        }
        self.fly(plan).map(drop)
    }

    /// What the first round trip of a question or decision reads. The row of the room comes last, so that
    /// what comes before it is not older.
    pub(super) fn first_reads(&self, uuid: RoomUuid) -> Vec<Statement> {
        let RowKey { table, key } = layout::row_key(keys::deriving_tag(), &[]);
        let mut reads = vec![select_keys(table, uuid, vec![key])];
        if self.rooms.of_uuid(uuid).is_none() {
            reads.push(newest_state(uuid));
        }
        reads.push(Words::read());
        reads.push(select_room(uuid));
        reads
    }

    /// Takes note of what the first round trip has brought.
    pub(super) fn arrived_first(
        &self,
        uuid: RoomUuid,
        flight: Flight,
    ) -> Result<Asked, StoreError> {
        let Flight { rows, epoch } = flight;
        let mut rows = rows.into_iter();
        let (deriving, rest) = (rows.next().unwrap_or_default(), rows.collect::<Vec<_>>());
        let mut rest = rest.into_iter().rev();
        let (room, words) = (rest.next().unwrap_or_default(), rest.next().unwrap_or_default());
        let state = rest.next().unwrap_or_default();
        self.words.learn(&word_rows(&words)?, epoch);
        let Some(row) = room.first() else {
            self.rooms.forget(uuid, epoch);
            return Ok(Asked::Never);
        };
        let row = room_row(row, 0)?;
        if row.value.is_none() && !row.is_gone {
            self.rooms.forget(uuid, epoch);
            return Ok(Asked::Vacant(row));
        }
        let known = self.rooms.learn(uuid, row.clone(), epoch);
        let note = keys::deriving(known.number);
        let mut read = Read::default();
        read.add_rows(&known, keys::deriving_tag(), Table::Note, &deriving)?;
        read.absent.insert(note);
        read.add_rows(&known, keys::state_tag(), Table::State, &state)?;
        self.keep(&known, row.stamp, read);
        Ok(Asked::Known(known, row))
    }

    /// Reads all words of the store.
    pub(in crate::store::engine) fn read_words(&self) -> Result<(), StoreError> {
        let Selected { rows, epoch } = self.database.select(Words::read())?;
        self.words.learn(&word_rows(&rows)?, epoch);
        Ok(())
    }

    /// Reads what a plan says, in one round trip, and keeps it in memory if it is as new as what is known
    /// of its room.
    ///
    /// # Errors
    /// Those of [`stamp_in`].
    fn fly(&self, plan: ReadPlan) -> Result<Read, StoreError> {
        let mut all = Read::default();
        if plan.is_empty() {
            return Ok(all);
        }
        let Flight { rows, epoch } = self.database.flight(plan.statements())?;
        let mut rows = rows.into_iter();
        let mut next = || rows.next().unwrap_or_default();
        for of_room in plan.rooms.into_values() {
            let OfRoom { known, keys, prefixes, .. } = of_room;
            let mut read = Read::default();
            for (tag, asked) in keys {
                read.add_rows(&known, tag, Table::of_tag(tag), &next())?;
                read.absent.extend(asked);
            }
            for prefix in prefixes {
                read.add_list(&known, prefix, &next())?;
            }
            let stamp = stamp_in(&known, &next(), epoch)?;
            all.records.extend(read.records.clone());
            self.keep(&known, stamp, read);
        }
        if !plan.of_store.is_empty() {
            for row in next() {
                all.records.insert(column::<Vec<u8>>(&row, 0)?, column::<Vec<u8>>(&row, 1)?.into());
            }
        }
        Ok(all)
    }

    /// Keeps what was read of a room before its row was found to have `stamp`, if that is the newest known
    /// stamp. Then nothing has changed between.
    pub(super) fn keep(&self, known: &KnownRoom, stamp: i64, read: Read) {
        let now = known.now();
        let Some(now) = now.as_ref().filter(|it| it.row.stamp == stamp) else { return };
        let Read { mut records, absent, lists } = read;
        for (prefix, list) in lists {
            self.records.keep_list(now.tick, prefix, list);
        }
        for key in absent {
            let value = records.remove(&key);
            self.records.keep(now.tick, key, value);
        }
        for (key, value) in records {
            self.records.keep(now.tick, key, Some(value));
        }
    }
}

/// What is known of a record without asking; `None` if nothing is. Nothing is stored of a room that is
/// not made yet.
fn in_memory(engine: &Postgres, known: &KnownRoom, key: &[u8]) -> Option<Option<StoredValue>> {
    let now = known.now();
    let Some(Now { row, tick }) = now.as_ref() else { return Some(None) };
    if keys::is_room(key) {
        let value = row.value.clone();
        drop(now);
        return Some(value.map(|it| layout::value_of_row(key, known.uuid, &it)));
    }
    let tick = *tick;
    drop(now);
    engine.records.get(tick, key)
}

/// What a round trip is to read.
#[derive(Default)]
pub(super) struct ReadPlan {
    rooms: BTreeMap<RoomNum, OfRoom>,
    of_store: BTreeSet<Vec<u8>>,
}

/// What is to be read of one room.
struct OfRoom {
    known: Arc<KnownRoom>,
    /// Keys above the engine, by their first byte.
    keys: BTreeMap<u8, BTreeSet<Vec<u8>>>,
    prefixes: BTreeSet<Vec<u8>>,
}

impl ReadPlan {
    fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.of_store.is_empty()
    }

    fn of_room(&mut self, known: &Arc<KnownRoom>) -> &mut OfRoom {
        self.rooms.entry(known.number).or_insert_with(|| OfRoom {
            known: Arc::clone(known),
            keys: BTreeMap::new(),
            prefixes: BTreeSet::new(),
        })
    }

    fn add_key(&mut self, known: &Arc<KnownRoom>, key: &[u8]) {
        let tag = key.first().copied().unwrap_or_default();
        self.of_room(known).keys.entry(tag).or_default().insert(key.to_vec());
    }

    fn add_prefix(&mut self, known: &Arc<KnownRoom>, prefix: &[u8]) {
        self.of_room(known).prefixes.insert(prefix.to_vec());
    }

    /// The statements, in the order in which [`Postgres::fly`] takes their rows.
    fn statements(&self) -> Vec<Statement> {
        let mut statements = Vec::new();
        for of_room in self.rooms.values() {
            let uuid = of_room.known.uuid;
            for (tag, keys) in &of_room.keys {
                let rows = keys
                    .iter()
                    .map(|it| layout::row_key(*tag, it.get(5..).unwrap_or_default()).key);
                statements.push(select_keys(Table::of_tag(*tag), uuid, rows.collect()));
            }
            for prefix in &of_room.prefixes {
                let Scope::Room { tag, rest, .. } = keys::scope(prefix) else { continue };
                let range = Range { after: None, limit: super::cache::MAX_LISTED + 1 };
                statements.push(listing::select_range(uuid, &layout::row_key(tag, rest), range));
            }
            statements.push(select_stamp(uuid));
        }
        if !self.of_store.is_empty() {
            let keys = Param::ManyBytes(self.of_store.iter().cloned().collect());
            let sql = "select key, value from store_word where key = any($1)";
            statements.push(Statement::new(sql, vec![keys]));
        }
        statements
    }
}

/// Values by their keys.
type ByKey = BTreeMap<Vec<u8>, StoredValue>;

/// What was read of a room.
#[derive(Default)]
pub(super) struct Read {
    pub(super) records: ByKey,
    /// Keys that were asked for: those that have no record are absent.
    pub(super) absent: BTreeSet<Vec<u8>>,
    /// Whole prefixes.
    pub(super) lists: BTreeMap<Vec<u8>, ByKey>,
}

impl Read {
    /// Adds rows of one kind of record: their keys and values.
    pub(super) fn add_rows(
        &mut self,
        known: &KnownRoom,
        tag: u8,
        table: Table,
        rows: &[DatabaseRow],
    ) -> Result<(), StoreError> {
        for row in rows {
            let at = RowKey { table, key: column::<Vec<u8>>(row, 0)? };
            let key = layout::key_of_row(tag, known.number, &at);
            let value = layout::value_of_row(&key, known.uuid, column::<&[u8]>(row, 1)?);
            self.records.insert(key, value);
        }
        Ok(())
    }

    /// Adds the records with a prefix. They are all, unless there are too many to be kept.
    fn add_list(
        &mut self,
        known: &KnownRoom,
        prefix: Vec<u8>,
        rows: &[DatabaseRow],
    ) -> Result<(), StoreError> {
        let Scope::Room { tag, .. } = keys::scope(&prefix) else { return Ok(()) };
        let mut list = Self::default();
        list.add_rows(known, tag, Table::of_tag(tag), rows)?;
        if rows.len() <= super::cache::MAX_LISTED {
            self.lists.insert(prefix, list.records);
        } else {
            self.records.extend(list.records);
        }
        Ok(())
    }
}

/// Reads records of a room by their keys.
fn select_keys(table: Table, uuid: RoomUuid, keys: Vec<Vec<u8>>) -> Statement {
    let name = table.name();
    let sql = format!("select key, value from {name} where room = $1 and key = any($2)");
    Statement::new(sql, vec![Param::Uuid(uuid), Param::ManyBytes(keys)])
}

/// Reads what says whether a room is as it was. It comes last in a round trip: see [`stamp_in`].
pub(super) fn select_stamp(uuid: RoomUuid) -> Statement {
    let sql = "select stamp, life from room where room = $1";
    Statement::new(sql, vec![Param::Uuid(uuid)])
}

/// The stamp of a room, in the rows of [`select_stamp`].
///
/// # Errors
/// [`StoreError::Missing`] if the room has another life than its number stands for: an answer must not be
/// made of two lives.
pub(super) fn stamp_in(
    known: &KnownRoom,
    rows: &[DatabaseRow],
    epoch: Epoch,
) -> Result<i64, StoreError> {
    let missing = || StoreError::missing("room", &keys::room(known.number));
    let row = rows.first().ok_or_else(missing)?;
    if !known.is_of(epoch) || known.has_other_life(column(row, 1)?) {
        return Err(missing());
    }
    column(row, 0)
}

/// Reads the row of a room.
fn select_room(uuid: RoomUuid) -> Statement {
    let sql = format!("select {ROOM_COLUMNS} from room where room = $1");
    Statement::new(sql, vec![Param::Uuid(uuid)])
}

/// Reads the newest state of a room, if it is short: a question begins with it.
fn newest_state(uuid: RoomUuid) -> Statement {
    let sql = "select key, value from (select key, value from state where room = $1 \
               order by key desc limit 1) newest where length(value) < 16384";
    Statement::new(sql, vec![Param::Uuid(uuid)])
}

/// A row of the table `room`, with the columns [`ROOM_COLUMNS`] from the column `at` on.
pub(super) fn room_row(row: &DatabaseRow, at: usize) -> Result<RoomRow, StoreError> {
    Ok(RoomRow {
        stamp: column(row, at)?,
        life: column(row, at + 1)?,
        made: column(row, at + 2)?,
        name: column(row, at + 3)?,
        is_gone: column(row, at + 4)?,
        value: column::<Option<Vec<u8>>>(row, at + 5)?.map(Into::into),
    })
}

fn word_rows(rows: &[DatabaseRow]) -> Result<Vec<WordRow>, StoreError> {
    rows.iter().map(|it| Ok(WordRow { key: column(it, 0)?, value: column(it, 1)? })).collect()
}

/// A column of a row.
pub(super) fn column<'r, T: tokio_postgres::types::FromSql<'r>>(
    row: &'r DatabaseRow,
    at: usize,
) -> Result<T, StoreError> {
    let unexpected = |error| EngineError::Failed(format!("a column has another type: {error}"));
    Ok(row.try_get(at).map_err(unexpected)?)
}

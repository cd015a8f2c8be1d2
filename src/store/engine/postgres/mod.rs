//! The engine over PostgreSQL: any number of processes share one database.
//!
//! ```text
//! keys with the number of a room      what the store above asks for
//! ─────────────────────────────────────────────────────────────────────────
//! rooms     number of this process ↔ id of the room in the database; stamp, life
//! cache     records that were read, as new as the stamp of their room
//! words     whether another process has changed a set of the whole store
//! layout    keys and values ↔ tables, rows, checksums
//! database  connections, round trips, transactions
//! ```
//!
//! The number of a room is read first in every question and decision: it is always asked of the database,
//! and brings the row of the room and the words. If the row has the stamp that is known, everything in
//! memory is right, and nothing else need be read. See `docs/postgres.md`.

mod cache;
mod commit;
mod database;
mod layout;
mod listing;
mod preparing;
mod reads;
mod rooms;
mod words;
mod writes;

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use self::{
    cache::RecordCache,
    database::{Database, Statement},
    layout::{RoomUuid, Table},
    rooms::{KnownRoom, KnownRooms, RoomRow},
    words::Words,
};
pub use self::{
    database::until,
    preparing::{Preparation, prepare},
};

use super::{EngineCounts, Replication, Seen, Set, StoredValue};
use crate::store::{
    EngineError, PostgresPlace, RoomNum, StoreError,
    codec::add_checksum,
    keys::{self, Scope},
};

/// Tells the engines of a process apart: tests have several.
static ENGINES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The row that this thread has read last.
    static LAST: RefCell<Option<LastRow>> = const { RefCell::new(None) };
}

/// The row of a room that a thread has read last: a decision begins with it.
struct LastRow {
    engine: u64,
    uuid: RoomUuid,
    asked: Asked,
}

/// What a round trip has said of a room.
#[derive(Clone)]
enum Asked {
    /// It has no row.
    Never,
    /// It was deleted, and may return.
    Vacant(RoomRow),
    /// It is held, or was deleted and may not return.
    Known(Arc<KnownRoom>, RoomRow),
}

/// The engine over PostgreSQL.
pub(in crate::store) struct Postgres {
    number: u64,
    database: Database,
    rooms: KnownRooms,
    records: RecordCache,
    words: Words,
    conflicts: AtomicU64,
    unclear: AtomicU64,
}

impl Postgres {
    /// Opens the connections to a database. `cache_bytes` is the memory for records.
    ///
    /// # Errors
    /// When the database cannot be reached within `patience`, is not prepared, or may lose what it has
    /// acknowledged.
    pub(in crate::store) fn open(
        place: &PostgresPlace,
        cache_bytes: u64,
        patience: Duration,
    ) -> Result<Self, StoreError> {
        let engine = Self {
            number: ENGINES.fetch_add(1, Ordering::Relaxed),
            database: Database::open_checked(place, patience)?,
            rooms: KnownRooms::new(),
            records: RecordCache::new(cache_bytes),
            words: Words::default(),
            conflicts: AtomicU64::new(0),
            unclear: AtomicU64::new(0),
        };
        engine.read_words()?;
        Ok(engine)
    }

    /// The servers that copy the database.
    pub(super) fn replication(&self) -> Result<Replication, StoreError> {
        self.database.replication()
    }

    /// What was counted since the database was opened.
    pub(super) fn counts(&self) -> EngineCounts {
        let of_connections = self.database.counts();
        EngineCounts {
            round_trips: of_connections.round_trips.load(Ordering::Relaxed),
            lost_connections: of_connections.lost_connections.load(Ordering::Relaxed),
            conflicts: self.conflicts.load(Ordering::Relaxed),
            unclear_commits: self.unclear.load(Ordering::Relaxed),
        }
    }

    /// Makes the server count the rows of all tables. It does nothing if the role does not own them; then
    /// the server does so by itself, later.
    pub(super) fn analyze(&self) -> Result<(), StoreError> {
        let tables = Table::ALL.map(Table::name).join(", ");
        let analyze = format!("analyze room, {tables}, store_word");
        self.database.select(Statement::new(analyze, Vec::new())).map(drop)
    }

    /// Bytes that the database takes.
    pub(super) fn bytes_on_disk(&self) -> Result<u64, StoreError> {
        let read = Statement::new("select pg_database_size(current_database())", Vec::new());
        let rows = self.database.select(read)?.rows;
        let bytes = rows.first().map(|it| reads::column::<i64>(it, 0)).transpose()?;
        Ok(bytes.map_or(0, |it| it.max(0).cast_unsigned()))
    }

    /// How often another process has changed a set of the whole store, as far as is known.
    pub(super) fn foreign_changes(&self, set: Set) -> u64 {
        self.words.changes(set)
    }

    /// A number of a room that is about to be made by this process.
    pub(super) fn number_for_new(&self, room_id: &str) -> Result<RoomNum, StoreError> {
        let epoch = self.database.flight(Vec::new())?.epoch;
        Ok(self.rooms.number_for_new(uuid_of(room_id.as_bytes()), epoch))
    }

    /// The number that the room of a number has now; `None` if the room was made again.
    pub(super) fn number_now(&self, number: RoomNum) -> Result<Option<RoomNum>, StoreError> {
        let before = self.known(number)?;
        Ok(match self.ask(before.uuid)? {
            Asked::Known(known, row) => {
                let is_same = before.row().is_some_and(|it| it.made == row.made);
                is_same.then_some(known.number)
            }
            Asked::Never | Asked::Vacant(_) => None,
        })
    }

    /// The number of a room that was deleted and may not return; `None` if it was not.
    pub(super) fn deleted_number(&self, room_id: &str) -> Result<Option<RoomNum>, StoreError> {
        Ok(match self.ask(uuid_of(room_id.as_bytes()))? {
            Asked::Known(known, row) => row.is_gone.then_some(known.number),
            Asked::Never | Asked::Vacant(_) => None,
        })
    }

    /// A number that stands for a room until it is deleted, the same in every process.
    pub(super) fn room_mark(&self, number: RoomNum) -> u64 {
        let row = self.rooms.of_number(number).and_then(|it| it.row());
        row.map_or(0, |it| it.made.cast_unsigned())
    }

    /// Reads the record that a decision depends on, with the stamp of its room. If this thread has just
    /// read the number of the room, that round trip has brought the record.
    pub(super) fn see(&self, key: Vec<u8>) -> Result<Seen, StoreError> {
        match keys::scope(&key) {
            Scope::RoomNumbers(name) => {
                let uuid = uuid_of(name);
                let asked = self.ask(uuid)?;
                let (value, stamp) = (asked.number_record(&key), asked.stamp());
                // A decision about the room begins with it.
                LAST.set(Some(LastRow { engine: self.number, uuid, asked }));
                Ok(Seen { key, value, stamp })
            }
            Scope::Room { room, .. } => {
                let uuid = self.known(room)?.uuid;
                let asked = match LAST.take() {
                    Some(last) if last.engine == self.number && last.uuid == uuid => last.asked,
                    Some(_) | None => self.ask(uuid)?,
                };
                let value = match &asked {
                    // Another life of the room has another number.
                    Asked::Known(known, row) if known.number == room => row.value.as_ref(),
                    Asked::Known(..) | Asked::Vacant(_) | Asked::Never => None,
                };
                let value = value.map(|it| layout::value_of_row(&key, uuid, it));
                Ok(Seen { stamp: asked.stamp(), key, value })
            }
            Scope::Everything | Scope::Store | Scope::AllRooms { .. } => {
                let value = self.read(&key)?;
                Ok(Seen { key, value, stamp: None })
            }
        }
    }

    /// Asks the database for the row of a room, and takes note of it.
    fn ask(&self, uuid: RoomUuid) -> Result<Asked, StoreError> {
        let flight = self.database.flight(self.first_reads(uuid))?;
        self.arrived_first(uuid, flight)
    }

    /// What a number stands for.
    ///
    /// # Errors
    /// When that was forgotten, since very many rooms were asked for meanwhile.
    fn known(&self, number: RoomNum) -> Result<Arc<KnownRoom>, StoreError> {
        let forgotten =
            || EngineError::Away("the room was set aside meanwhile; ask again".to_owned());
        Ok(self.rooms.of_number(number).ok_or_else(forgotten)?)
    }
}

impl Asked {
    /// The stamp of the room; `None` if it has no row.
    fn stamp(&self) -> Option<i64> {
        match self {
            Self::Never => None,
            Self::Vacant(row) | Self::Known(_, row) => Some(row.stamp),
        }
    }

    /// The record that maps the room's id to a number.
    fn number_record(&self, key: &[u8]) -> Option<StoredValue> {
        match self {
            Self::Never | Self::Vacant(_) => None,
            Self::Known(known, row) => Some(number_record(key, known, row)),
        }
    }
}

/// The record that maps a room id to a number.
fn number_record(key: &[u8], known: &KnownRoom, row: &RoomRow) -> StoredValue {
    let number = if row.is_gone { Vec::new() } else { known.number.0.to_be_bytes().to_vec() };
    add_checksum(key, number).into()
}

/// What identifies a room in the database.
fn uuid_of(room_id: &[u8]) -> RoomUuid {
    keys::hashed(room_id)
}

#[cfg(test)]
mod tests;

//! Lists of records, page by page: of one room, of one kind in all rooms, of the whole store.

use std::sync::Arc;

use tokio_postgres::Row as DatabaseRow;

use super::{
    super::Records,
    Postgres,
    database::{Flight, Param, Selected, Statement, UuidBytes},
    layout::{self, RoomUuid, RowKey, Table},
    number_record,
    reads::{ROOM_COLUMNS, Read, column, room_row, select_stamp, stamp_in},
    rooms::{KnownRoom, RoomRow},
    uuid_of,
};
use crate::store::{
    StoreError,
    keys::{self, Scope},
};

/// Which part of a list is read.
#[derive(Clone, Debug)]
pub(super) struct Range {
    /// The key in its table after which the part begins.
    pub(super) after: Option<Vec<u8>>,
    /// The most records.
    pub(super) limit: usize,
}

/// A room whose row was read.
struct LearntRoom {
    known: Arc<KnownRoom>,
    row: RoomRow,
}

impl Postgres {
    /// The records whose keys begin with `prefix` and are greater than `after`, in the order of the
    /// database, at most `limit`. Within a room that is the order of their keys; rooms are in the order
    /// of their ids' hashes.
    pub(in super::super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        match keys::scope(prefix) {
            Scope::Everything => self.scan_everything(after, limit),
            Scope::Store => self.scan_store(prefix, after, limit),
            Scope::RoomNumbers(beginning) => self.scan_numbers(beginning, after, limit),
            Scope::AllRooms { tag } if keys::is_room_tag(tag) => self.scan_rooms(after, limit),
            Scope::AllRooms { tag } => self.scan_all_rooms(tag, after, limit),
            Scope::Room { .. } => self.scan_room(prefix, after, limit),
        }
    }

    fn scan_room(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        let Scope::Room { tag, room, rest } = keys::scope(prefix) else { return Ok(Vec::new()) };
        let known = self.known(room)?;
        let Some(tick) = known.tick() else { return Ok(Vec::new()) };
        let is_behind = |key: &[u8]| after.is_none_or(|it| key > it);
        if let Some(list) = self.records.list(tick, prefix) {
            let behind = list.iter().filter(|(key, _)| is_behind(key)).take(limit);
            return Ok(behind.map(|(key, value)| (key.clone(), value.clone())).collect());
        }
        if keys::is_room(prefix) {
            let value = self.read(prefix)?.map(|it| (prefix.to_vec(), it));
            return Ok(value.into_iter().filter(|(key, _)| is_behind(key)).take(limit).collect());
        }
        let after_row = after.map(|it| layout::row_key(tag, it.get(5..).unwrap_or_default()).key);
        let from = layout::row_key(tag, rest);
        let range = Range { after: after_row, limit };
        let reads = vec![select_range(known.uuid, &from, range), select_stamp(known.uuid)];
        let Flight { rows, epoch } = self.database.flight(reads)?;
        let mut rows = rows.into_iter();
        let found = rows.next().unwrap_or_default();
        let stamp = stamp_in(&known, &rows.next().unwrap_or_default(), epoch)?;
        let mut read = Read::default();
        read.add_rows(&known, tag, Table::of_tag(tag), &found)?;
        let records = read.records.clone();
        if after.is_none() && found.len() < limit {
            read.lists.insert(prefix.to_vec(), std::mem::take(&mut read.records));
            self.keep(&known, stamp, read);
        }
        Ok(records.into_iter().collect())
    }

    /// The records of rooms, in the order of the hashes of their ids.
    fn scan_rooms(&self, after: Option<&[u8]>, limit: usize) -> Result<Records, StoreError> {
        let after = self.room_after(after)?;
        let sql = format!(
            "select room, {ROOM_COLUMNS} from room where value is not null and not gone and room > $1 \
             order by room limit $2"
        );
        let read = Statement::new(sql, vec![Param::Uuid(after), limit_of(limit)]);
        let mut records = Vec::new();
        for LearntRoom { known, row } in self.learn_rows(read)? {
            let key = keys::room(known.number);
            let value = row.value.map(|it| layout::value_of_row(&key, known.uuid, &it));
            records.extend(value.map(|it| (key, it)));
        }
        Ok(records)
    }

    /// The numbers of rooms, by their ids.
    fn scan_numbers(
        &self,
        beginning: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let after = after.and_then(|it| it.get(1..)).map(text);
        let sql = format!(
            "select room, {ROOM_COLUMNS} from room where (value is not null or gone) \
             and name > $1 and starts_with(name, $2) order by name limit $3"
        );
        let params = vec![
            Param::Text(after.unwrap_or_default()),
            Param::Text(text(beginning)),
            limit_of(limit),
        ];
        let rooms = self.learn_rows(Statement::new(sql, params))?;
        let record = |LearntRoom { known, row }: LearntRoom| {
            let key = keys::room_by_name(&row.name);
            let value = number_record(&key, &known, &row);
            (key, value)
        };
        Ok(rooms.into_iter().map(record).collect())
    }

    /// One kind of record in all rooms.
    fn scan_all_rooms(
        &self,
        tag: u8,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        let after_key = after.map(|it| layout::row_key(tag, it.get(5..).unwrap_or_default()).key);
        let uuid = self.room_after(after)?;
        let table = Table::of_tag(tag);
        let kind = match table {
            // A literal, so that the index of the notes that are listed over all rooms is used.
            Table::Note => format!("get_byte(key, 0) = {tag} and"),
            _ => String::new(),
        };
        let name = table.name();
        let sql = format!(
            "select key, value, room from {name} where {kind} (room, key) > ($1, $2) \
             order by room, key limit $3"
        );
        let key = Param::Bytes(Some(after_key.unwrap_or_default()));
        let read = Statement::new(sql, vec![Param::Uuid(uuid), key, limit_of(limit)]);
        let rows = self.database.select(read)?.rows;
        self.with_numbers(tag, &rows)
    }

    /// Rows of several rooms, with the numbers of the rooms in their keys.
    fn with_numbers(&self, tag: u8, rows: &[DatabaseRow]) -> Result<Records, StoreError> {
        let mut unknown: Vec<RoomUuid> = Vec::new();
        for row in rows {
            let UuidBytes(uuid) = column(row, 2)?;
            if self.rooms.of_uuid(uuid).is_none() && unknown.last() != Some(&uuid) {
                unknown.push(uuid);
            }
        }
        self.learn_rooms(unknown)?;
        let mut records = Vec::new();
        for row in rows {
            let UuidBytes(uuid) = column(row, 2)?;
            // A row without a room is left by nothing that this program does.
            let Some(known) = self.rooms.of_uuid(uuid) else { continue };
            let at = RowKey { table: Table::of_tag(tag), key: column(row, 0)? };
            let key = layout::key_of_row(tag, known.number, &at);
            let value = layout::value_of_row(&key, uuid, column::<&[u8]>(row, 1)?);
            records.push((key, value));
        }
        Ok(records)
    }

    /// Reads the rows of rooms that are not known.
    fn learn_rooms(&self, uuids: Vec<RoomUuid>) -> Result<(), StoreError> {
        if uuids.is_empty() {
            return Ok(());
        }
        let sql = format!("select room, {ROOM_COLUMNS} from room where room = any($1)");
        self.learn_rows(Statement::new(sql, vec![Param::Uuids(uuids)])).map(drop)
    }

    /// Reads rows of rooms, with the room's id in the database before them, and takes note of them.
    fn learn_rows(&self, read: Statement) -> Result<Vec<LearntRoom>, StoreError> {
        let Selected { rows, epoch } = self.database.select(read)?;
        let learnt = rows.iter().map(|row| {
            let UuidBytes(uuid) = column(row, 0)?;
            let row = room_row(row, 1)?;
            Ok(LearntRoom { known: self.rooms.learn(uuid, row.clone(), epoch), row })
        });
        learnt.collect()
    }

    /// Records of the whole store.
    fn scan_store(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Records, StoreError> {
        let from = after.map_or_else(|| prefix.to_vec(), just_behind);
        let (sql, mut params) = match end_of(prefix) {
            Some(end) => (
                "select key, value from store_word where key >= $1 and key < $3 order by key limit $2",
                vec![Param::Bytes(Some(end))],
            ),
            None => {
                ("select key, value from store_word where key >= $1 order by key limit $2", vec![])
            }
        };
        params.splice(0..0, [Param::Bytes(Some(from)), limit_of(limit)]);
        let rows = self.database.select(Statement::new(sql, params))?.rows;
        rows.iter().map(|it| Ok((column(it, 0)?, column::<Vec<u8>>(it, 1)?.into()))).collect()
    }

    /// All records, kind by kind.
    fn scan_everything(&self, after: Option<&[u8]>, limit: usize) -> Result<Records, StoreError> {
        let mut records = Records::new();
        let first = after.and_then(|it| it.first().copied());
        for tag in keys::tags().filter(|it| first.is_none_or(|first| *it >= first)) {
            let left = limit - records.len();
            if left == 0 {
                break;
            }
            let after = after.filter(|_| first == Some(tag));
            records.extend(self.scan(&[tag], after, left)?);
        }
        Ok(records)
    }

    /// The room of a key in the database; the least one without a key.
    fn room_after(&self, key: Option<&[u8]>) -> Result<RoomUuid, StoreError> {
        match key.map(keys::scope) {
            Some(Scope::Room { room, .. }) => Ok(self.known(room)?.uuid),
            Some(Scope::RoomNumbers(name)) => Ok(uuid_of(name)),
            _ => Ok(RoomUuid::default()),
        }
    }
}

/// Reads the records of a room whose keys begin as `from` says.
pub(super) fn select_range(uuid: RoomUuid, from: &RowKey, range: Range) -> Statement {
    let RowKey { table, key: prefix } = from;
    let Range { after, limit } = range;
    let first = after.map_or_else(|| prefix.clone(), |it| just_behind(&it));
    let mut params = vec![Param::Uuid(uuid), Param::Bytes(Some(first)), limit_of(limit)];
    let name = table.name();
    let end = end_of(prefix).map(|end| {
        params.push(Param::Bytes(Some(end)));
        "and key < $4"
    });
    let end = end.unwrap_or_default();
    let sql = format!(
        "select key, value from {name} where room = $1 and key >= $2 {end} order by key limit $3"
    );
    Statement::new(sql, params)
}

/// The least key behind all keys with a prefix; `None` if there is none.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|it| *it != u8::MAX)?;
    let mut end = prefix.get(..=kept)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

/// The least key behind a key.
fn just_behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

fn limit_of(limit: usize) -> Param {
    Param::Int8(i64::try_from(limit).unwrap_or(i64::MAX))
}

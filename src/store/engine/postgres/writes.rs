//! The statements that write.

use super::{
    super::StoredValue,
    database::{Param, Statement},
    layout::{RoomUuid, Table},
    reads::ROOM_COLUMNS,
    rooms::RoomRow,
};

/// The most rows that one statement writes.
pub(super) const ROWS_PER_STATEMENT: usize = 500;

/// A row that is written.
pub(super) struct Written {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// Writes records of a room.
pub(super) fn upsert(table: Table, uuid: RoomUuid, rows: &[Written]) -> Statement {
    let mut params = vec![Param::Uuid(uuid)];
    let mut values = Vec::with_capacity(rows.len());
    for Written { key, value } in rows {
        values.push(format!("($1, ${}, ${})", params.len() + 1, params.len() + 2));
        params.push(Param::Bytes(Some(key.clone())));
        params.push(Param::Bytes(Some(value.clone())));
    }
    let sql = format!(
        "insert into {} (room, key, value) values {} \
         on conflict (room, key) do update set value = excluded.value",
        table.name(),
        values.join(", ")
    );
    Statement::new(sql, params)
}

/// Writes records of the whole store.
pub(super) fn upsert_of_store(rows: &[Written]) -> Statement {
    let mut params = Vec::new();
    let mut values = Vec::with_capacity(rows.len());
    for Written { key, value } in rows {
        values.push(format!("(${}, ${})", params.len() + 1, params.len() + 2));
        params.push(Param::Bytes(Some(key.clone())));
        params.push(Param::Bytes(Some(value.clone())));
    }
    let sql = format!(
        "insert into store_word (key, value) values {} \
         on conflict (key) do update set value = excluded.value",
        values.join(", ")
    );
    Statement::new(sql, params)
}

/// Writes a record of the whole store that must be as it was read.
pub(super) fn conditional(
    key: &[u8],
    before: Option<&StoredValue>,
    value: &StoredValue,
) -> Vec<Statement> {
    let key = Param::Bytes(Some(key.to_vec()));
    let value = Param::Bytes(Some(value.to_vec()));
    let Some(before) = before else {
        let sql = "insert into store_word (key, value) values ($1, $2)";
        return vec![Statement::new(sql, vec![key, value])];
    };
    let before = Param::Bytes(Some(before.to_vec()));
    let update =
        "update store_word set value = case when value = $2 then $3::bytea end where key = $1";
    let check = "select 1 / count(*) from store_word where key = $1 and value = $2";
    vec![
        Statement::new(update, vec![key.clone(), before, value.clone()]),
        Statement::new(check, vec![key, value]),
    ]
}

/// Inserts the row of a room that has none.
pub(super) fn insert_room(uuid: RoomUuid, row: &RoomRow) -> Statement {
    let sql =
        format!("insert into room (room, {ROOM_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7)");
    let params = vec![
        Param::Uuid(uuid),
        Param::Int8(row.stamp),
        Param::Int8(row.life),
        Param::Int8(row.made),
        Param::Text(row.name.clone()),
        Param::Bool(row.is_gone),
        Param::Bytes(row.value.as_ref().map(|it| it.to_vec())),
    ];
    Statement::new(sql, params)
}

/// Gives a room another stamp, so that a commit that depends on the old one can never be applied.
pub(super) fn set_stamp(uuid: RoomUuid, before: i64, stamp: i64) -> Statement {
    let sql = "update room set stamp = case when stamp = $2 then $3::bigint end where room = $1";
    Statement::new(sql, vec![Param::Uuid(uuid), Param::Int8(before), Param::Int8(stamp)])
}

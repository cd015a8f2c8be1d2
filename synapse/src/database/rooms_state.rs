//! What Synapse knows of rooms as a whole: which it holds, and which partially.

use std::collections::BTreeSet;

use tokio_postgres::{Error, Transaction, types::Type};

/// Of some rooms, those whose full state Synapse does not know yet.
///
/// # Errors
/// When the database fails.
pub(crate) async fn partial_rooms(
    transaction: &Transaction<'_>,
    room_ids: &BTreeSet<&str>,
) -> Result<BTreeSet<String>, Error> {
    let sql = "select room_id from partial_state_rooms where room_id = any($1)";
    select(transaction, sql, room_ids).await
}

/// Of some rooms, those of which Synapse holds events.
///
/// # Errors
/// When the database fails.
pub(crate) async fn held_rooms(
    transaction: &Transaction<'_>,
    room_ids: &BTreeSet<&str>,
) -> Result<BTreeSet<String>, Error> {
    let sql = "select r.room_id from unnest($1::text[]) r(room_id) \
               where exists (select 1 from events e where e.room_id = r.room_id)";
    select(transaction, sql, room_ids).await
}

/// Reads the rooms after a room id in the order of the database, with a known room version.
///
/// # Errors
/// When the database fails.
pub(crate) async fn rooms_after(
    transaction: &Transaction<'_>,
    after: &str,
    limit: i64,
) -> Result<Vec<String>, Error> {
    let sql = "select room_id from rooms where room_id > $1 \
               and room_version is not null order by room_id limit $2";
    let rows = transaction.query_typed(sql, &[(&after, Type::TEXT), (&limit, Type::INT8)]).await?;
    rows.iter().map(|it| it.try_get(0)).collect()
}

/// Reads the time by the clock of the database, in seconds since 1970.
///
/// # Errors
/// When the database fails.
pub(crate) async fn now(transaction: &Transaction<'_>) -> Result<u64, Error> {
    let sql = "select extract(epoch from clock_timestamp())::bigint";
    let row = transaction.query_typed_one(sql, &[]).await?;
    Ok(row.try_get::<_, i64>(0)?.try_into().unwrap_or_default())
}

/// Reads the version of a room. `None` if Synapse does not hold the room, or has not noted the version.
///
/// # Errors
/// When the database fails.
pub(crate) async fn room_version(
    transaction: &Transaction<'_>,
    room_id: &str,
) -> Result<Option<String>, Error> {
    let sql = "select room_version from rooms where room_id = $1";
    let row = transaction.query_typed_opt(sql, &[(&room_id, Type::TEXT)]).await?;
    row.map_or(Ok(None), |it| it.try_get(0))
}

/// Reads the users who have sent events to a room and requested erasure.
///
/// # Errors
/// When the database fails.
pub(crate) async fn erased_senders(
    transaction: &Transaction<'_>,
    room_id: &str,
) -> Result<Vec<String>, Error> {
    let sql = "select distinct u.user_id from erased_users u join events e on e.sender = u.user_id \
               where e.room_id = $1 order by u.user_id";
    let rows = transaction.query_typed(sql, &[(&room_id, Type::TEXT)]).await?;
    rows.iter().map(|it| it.try_get(0)).collect()
}

async fn select(
    transaction: &Transaction<'_>,
    sql: &str,
    room_ids: &BTreeSet<&str>,
) -> Result<BTreeSet<String>, Error> {
    let room_ids: Vec<&str> = room_ids.iter().copied().collect();
    let rows = transaction.query_typed(sql, &[(&room_ids, Type::TEXT_ARRAY)]).await?;
    rows.iter().map(|it| it.try_get(0)).collect()
}

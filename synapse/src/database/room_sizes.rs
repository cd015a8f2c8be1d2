//! The rooms that Synapse holds, with their sizes.

use tokio_postgres::{Error, Transaction, types::Type};

/// A room with its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SizedRoom {
    /// The room.
    pub(crate) room_id: String,
    /// Number of its events.
    pub(crate) events: u64,
    /// The stream ordering of its last event.
    pub(crate) last: i64,
}

/// The ids of all rooms.
///
/// # Errors
/// When the database fails.
pub(crate) async fn all(transaction: &Transaction<'_>) -> Result<Vec<String>, Error> {
    let rows = transaction.query_typed("select room_id from rooms", &[]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// The sizes of some rooms. Rooms without events are absent.
///
/// # Errors
/// When the database fails.
pub(crate) async fn sizes(
    transaction: &Transaction<'_>,
    room_ids: &[String],
) -> Result<Vec<SizedRoom>, Error> {
    // By index alone: the tables of a large homeserver do not fit into memory.
    let sql = "select room_id, count(*), max(stream_ordering) from events \
               where room_id = any($1) group by room_id";
    let rows = transaction.query_typed(sql, &[(&room_ids, Type::TEXT_ARRAY)]).await?;
    let rooms = rows.iter().map(|row| {
        Ok(SizedRoom {
            room_id: row.try_get(0)?,
            events: row.try_get::<_, i64>(1)?.unsigned_abs(),
            last: row.try_get::<_, Option<i64>>(2)?.unwrap_or_default(),
        })
    });
    rooms.collect()
}

//! The small tables, which are read whole.

use std::collections::BTreeSet;

use tokio_postgres::{Error, Transaction};

/// A ban that redacts what the banned user has sent to the room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RedactingBan {
    /// The room.
    pub(crate) room_id: String,
    /// The banned user.
    pub(crate) user_id: String,
    /// The event that bans the user.
    pub(crate) ban_event_id: String,
    /// Events of the user from this stream ordering on are not redacted; `None` if all are.
    pub(crate) before: Option<i64>,
}

/// The small tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SmallTables {
    /// The users who requested erasure.
    pub(crate) erased_users: BTreeSet<String>,
    /// The rooms that an administrator has blocked.
    pub(crate) blocked_rooms: BTreeSet<String>,
    /// The bans that redact.
    pub(crate) redacting_bans: BTreeSet<RedactingBan>,
    /// Number of rooms, for metrics.
    pub(crate) room_count: u64,
}

/// Reads the small tables. Synapse has the table of bans from schema 92 on.
///
/// # Errors
/// When the database fails.
pub(crate) async fn read(transaction: &Transaction<'_>) -> Result<SmallTables, Error> {
    let erased = transaction.query_typed("select user_id from erased_users", &[]).await?;
    let blocked = transaction.query_typed("select room_id from blocked_rooms", &[]).await?;
    let exists = "select to_regclass('room_ban_redactions') is not null";
    let exists: bool = transaction.query_typed_one(exists, &[]).await?.try_get(0)?;
    let bans = if exists {
        let sql = "select room_id, user_id, redacting_event_id, nullif(redact_end_ordering, 0) \
                   from room_ban_redactions";
        transaction.query_typed(sql, &[]).await?
    } else {
        Vec::new()
    };
    let rooms = transaction.query_typed_one("select count(*) from rooms", &[]).await?;
    let bans = bans.iter().map(|row| {
        Ok(RedactingBan {
            room_id: row.try_get(0)?,
            user_id: row.try_get(1)?,
            ban_event_id: row.try_get(2)?,
            before: row.try_get(3)?,
        })
    });
    Ok(SmallTables {
        erased_users: erased.iter().map(|row| row.try_get(0)).collect::<Result<_, Error>>()?,
        blocked_rooms: blocked.iter().map(|row| row.try_get(0)).collect::<Result<_, Error>>()?,
        redacting_bans: bans.collect::<Result<_, Error>>()?,
        room_count: rooms.try_get::<_, i64>(0)?.unsigned_abs(),
    })
}

/// The rooms whose full state Synapse does not know yet.
///
/// # Errors
/// When the database fails.
pub(crate) async fn partial_rooms(
    transaction: &Transaction<'_>,
) -> Result<BTreeSet<String>, Error> {
    let rows = transaction.query_typed("select room_id from partial_state_rooms", &[]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

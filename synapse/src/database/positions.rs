//! How far the writers of Synapse are, and which database this is.

use tokio_postgres::{Error, Transaction, types::Type};

/// The stream of events as they are sent and received.
pub(crate) const EVENTS: &str = "events";
/// The stream of events that are fetched later; its numbers are negative.
pub(crate) const BACKFILL: &str = "backfill";
/// The stream of events whose full state has become known.
pub(crate) const UN_PARTIAL_STATED: &str = "un_partial_stated_event_stream";

/// The direction in which the numbers of a stream go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// 1, 2, 3.
    Up,
    /// -1, -2, -3.
    Down,
}

/// How far a writer is in a stream: all of its rows up to there are visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The stream.
    pub(crate) stream: String,
    /// The `instance_name` of the writer.
    pub(crate) writer: String,
    /// The number of its last row.
    pub(crate) number: i64,
}

impl Position {
    /// The direction in which the numbers of the stream go.
    pub(crate) fn direction(&self) -> Direction {
        if self.stream == BACKFILL { Direction::Down } else { Direction::Up }
    }
}

/// What the database says of itself at the beginning of a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The positions of all writers of the streams that are followed.
    pub(crate) positions: Vec<Position>,
    /// All transactions with a lower id have ended.
    pub(crate) oldest_transaction: u64,
    /// No transaction with this id or a higher one has begun to write.
    pub(crate) next_transaction: u64,
    /// The clock of the database, in milliseconds since 1970.
    pub(crate) now_ms: i64,
}

impl Moment {
    /// The number that is farthest in a stream, by the positions of its writers; 0 if it has none.
    pub(crate) fn farthest(&self, stream: &str) -> i64 {
        let numbers = self.positions.iter().filter(|it| it.stream == stream).map(|it| it.number);
        let farthest = numbers.max_by_key(|number| number.unsigned_abs());
        farthest.unwrap_or_default()
    }
}

/// Reads the positions and the clock.
///
/// # Errors
/// When the database fails.
pub(crate) async fn moment(transaction: &Transaction<'_>) -> Result<Moment, Error> {
    let sql = "select p.stream_name, p.instance_name, p.stream_id, \
           pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint, \
           (extract(epoch from clock_timestamp()) * 1000)::bigint \
         from pg_current_snapshot() s left join stream_positions p on p.stream_name = any($1)";
    let streams: &[&str] = &[EVENTS, BACKFILL, UN_PARTIAL_STATED];
    let rows = transaction.query_typed(sql, &[(&streams, Type::TEXT_ARRAY)]).await?;
    let mut moment =
        Moment { positions: Vec::new(), oldest_transaction: 0, next_transaction: 0, now_ms: 0 };
    for row in rows {
        if let Some(stream) = row.try_get(0)? {
            let position = Position { stream, writer: row.try_get(1)?, number: row.try_get(2)? };
            moment.positions.push(position);
        }
        moment.oldest_transaction = row.try_get::<_, i64>(3)?.unsigned_abs();
        moment.next_transaction = row.try_get::<_, i64>(4)?.unsigned_abs();
        moment.now_ms = row.try_get(5)?;
    }
    Ok(moment)
}

/// Which database this is: the number of the cluster, which copies of its files share, and the number
/// of the database in it.
///
/// # Errors
/// When the database fails.
pub(crate) async fn identity(transaction: &Transaction<'_>) -> Result<String, Error> {
    // Some providers do not let a role read the first number.
    let may = "select has_function_privilege('pg_control_system()', 'execute')";
    let may_read: bool = transaction.query_typed_one(may, &[]).await?.try_get(0)?;
    let cluster =
        if may_read { "(select system_identifier from pg_control_system())" } else { "0" };
    let sql = format!(
        "select {cluster}::text || '/' || oid::text from pg_database \
         where datname = current_database()"
    );
    transaction.query_typed_one(&sql, &[]).await?.try_get(0)
}

//! What is above the beginning of the windows: numbers and ids alone, read by index.

use tokio_postgres::{
    Error, Transaction,
    types::{ToSql, Type},
};

/// Where the windows begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowStarts {
    /// Only events with a higher stream ordering are read.
    pub(crate) events: i64,
    /// Only events with a lower, negative stream ordering are read.
    pub(crate) backfill: i64,
    /// Only later rows of `un_partial_stated_event_stream` are read.
    pub(crate) un_partial_stated: i64,
}

/// An event that was an outlier, or whose state was partial, and no longer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChangedEvent {
    /// The number of the row in its stream.
    pub(crate) number: i64,
    /// The event.
    pub(crate) event_id: String,
}

/// What is visible in the windows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewRows {
    /// The stream orderings of events above `events`.
    pub(crate) events: Vec<i64>,
    /// The stream orderings of events below `backfill`.
    pub(crate) backfill: Vec<i64>,
    /// Events that are no longer outliers, with the stream ordering at which they ceased to be.
    pub(crate) ex_outliers: Vec<ChangedEvent>,
    /// Events whose full state has become known.
    pub(crate) un_partial_stated: Vec<ChangedEvent>,
}

/// Reads what is visible in the windows.
///
/// # Errors
/// When the database fails.
pub(crate) async fn read(
    transaction: &Transaction<'_>,
    above: WindowStarts,
) -> Result<NewRows, Error> {
    let sql = "select 1, stream_ordering, null from events where stream_ordering > $1 \
        union all select 2, stream_ordering, null from events where stream_ordering < $2 \
        union all select 3, event_stream_ordering, event_id from ex_outlier_stream \
                  where event_stream_ordering > $1 \
        union all select 3, event_stream_ordering, event_id from ex_outlier_stream \
                  where event_stream_ordering < $2 \
        union all select 4, stream_id, event_id from un_partial_stated_event_stream \
                  where stream_id > $3";
    let WindowStarts { events, backfill, un_partial_stated } = above;
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&events, Type::INT8), (&backfill, Type::INT8), (&un_partial_stated, Type::INT8)];
    let mut new = NewRows::default();
    for row in transaction.query_typed(sql, &parameters).await? {
        let number = row.try_get(1)?;
        match row.try_get::<_, i32>(0)? {
            1 => new.events.push(number),
            2 => new.backfill.push(number),
            3 => new.ex_outliers.push(ChangedEvent { number, event_id: row.try_get(2)? }),
            _ => new.un_partial_stated.push(ChangedEvent { number, event_id: row.try_get(2)? }),
        }
    }
    Ok(new)
}

//! The rows of events, as Synapse holds them.

use futures_util::{TryStreamExt as _, pin_mut};
use serde::Deserialize;
use tokio_postgres::{
    Error, Row, Transaction,
    types::{ToSql, Type},
};

/// An event as Synapse holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventRow {
    /// The event.
    pub(crate) event_id: String,
    /// Its room.
    pub(crate) room_id: String,
    /// The room version; `None` if Synapse has not noted it.
    pub(crate) room_version: Option<String>,
    /// Its stream ordering: negative if it was fetched later.
    pub(crate) stream_ordering: i64,
    /// Whether it is an outlier.
    pub(crate) outlier: bool,
    /// Whether Synapse rejected it.
    pub(crate) rejected: bool,
    /// Whether Synapse soft-failed it.
    pub(crate) soft_failed: bool,
    /// The PDU, byte for byte as Synapse holds it.
    pub(crate) json: String,
    /// The state group after the event (before it, if it is rejected). `None` for outliers.
    pub(crate) state_group: Option<i64>,
}

/// A part of Synapse's notes about an event.
#[derive(Deserialize)]
struct InternalMetadata {
    #[serde(default)]
    soft_failed: Option<bool>,
}

/// The bytes of PDUs after which a page ends.
const MAX_PAGE_BYTES: usize = 32 * 1_024 * 1_024;
/// The columns of [`EventRow`], in the order in which it reads them. `rejections` is read beside
/// `events.rejection_reason`, because old databases fill that column in the background.
const COLUMNS: &str = "select e.event_id, e.room_id, r.room_version, e.stream_ordering, e.outlier, \
     (e.rejection_reason is not null or x.event_id is not null), j.internal_metadata, j.json, \
     g.state_group";
/// The tables of [`COLUMNS`].
const TABLES: &str = "join event_json j on j.event_id = e.event_id \
     left join rooms r on r.room_id = e.room_id \
     left join rejections x on x.event_id = e.event_id \
     left join event_to_state_groups g on g.event_id = e.event_id";

impl EventRow {
    fn new(row: &Row) -> Result<Self, Error> {
        let metadata: &str = row.try_get(6)?;
        Ok(Self {
            event_id: row.try_get(0)?,
            room_id: row.try_get(1)?,
            room_version: row.try_get(2)?,
            stream_ordering: row.try_get(3)?,
            outlier: row.try_get(4)?,
            rejected: row.try_get(5)?,
            soft_failed: is_soft_failed(metadata),
            json: row.try_get(7)?,
            state_group: row.try_get(8)?,
        })
    }
}

/// Whether the notes say that the event is soft-failed. Notes that cannot be read say nothing.
fn is_soft_failed(metadata: &str) -> bool {
    let notes = serde_json::from_str::<InternalMetadata>(metadata).ok();
    notes.and_then(|it| it.soft_failed).unwrap_or_default()
}

/// Reads events by id, ordered by stream ordering. Those that Synapse does not hold are absent.
///
/// # Errors
/// When the database fails.
pub(crate) async fn by_id(
    transaction: &Transaction<'_>,
    event_ids: &[String],
) -> Result<Vec<EventRow>, Error> {
    let sql = format!(
        "{COLUMNS} from events e {TABLES} where e.event_id = any($1) order by e.stream_ordering"
    );
    read(transaction, &sql, &[(&event_ids, Type::TEXT_ARRAY)]).await
}

/// Reads events by stream ordering, in that order. Those that Synapse does not hold are absent.
///
/// # Errors
/// When the database fails.
pub(crate) async fn by_ordering(
    transaction: &Transaction<'_>,
    orderings: &[i64],
) -> Result<Vec<EventRow>, Error> {
    let sql = format!(
        "{COLUMNS} from events e {TABLES} where e.stream_ordering = any($1) \
         order by e.stream_ordering"
    );
    read(transaction, &sql, &[(&orderings, Type::INT8_ARRAY)]).await
}

/// A page of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// The events.
    pub(crate) events: Vec<EventRow>,
    /// Whether these are all. Otherwise the page ended because it is large.
    pub(crate) is_complete: bool,
}

/// Reads all events of some rooms, ordered by room and stream ordering. For rooms that have few events
/// together.
///
/// # Errors
/// When the database fails.
pub(crate) async fn of_rooms(
    transaction: &Transaction<'_>,
    room_ids: &[String],
) -> Result<Vec<EventRow>, Error> {
    read(transaction, &sql_of_rooms(), &[(&room_ids, Type::TEXT_ARRAY)]).await
}

/// Reads the events of some rooms as [`of_rooms`] does, but ends when the page is large.
///
/// # Errors
/// When the database fails.
pub(crate) async fn page_of_rooms(
    transaction: &Transaction<'_>,
    room_ids: &[String],
) -> Result<Page, Error> {
    read_page(transaction, &sql_of_rooms(), &[(&room_ids, Type::TEXT_ARRAY)]).await
}

fn sql_of_rooms() -> String {
    format!(
        "{COLUMNS} from events e {TABLES} where e.room_id = any($1) \
         order by e.room_id, e.stream_ordering"
    )
}

/// A part of a room: the events after a stream ordering.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoomPart<'a> {
    /// The room.
    pub(crate) room_id: &'a str,
    /// Only events with a higher stream ordering are read.
    pub(crate) after: i64,
    /// The largest number of events.
    pub(crate) limit: i64,
}

/// Reads a part of a room, ordered by stream ordering. It has fewer events than the limit if these are
/// large; it is empty only after the last event of the room.
///
/// # Errors
/// When the database fails.
pub(crate) async fn of_room_part(
    transaction: &Transaction<'_>,
    part: RoomPart<'_>,
) -> Result<Vec<EventRow>, Error> {
    let sql = format!(
        "{COLUMNS} from (select * from events where room_id = $1 and stream_ordering > $2 \
         order by stream_ordering limit $3) e {TABLES} order by e.stream_ordering"
    );
    let RoomPart { room_id, after, limit } = part;
    let parameters: [(&(dyn ToSql + Sync), Type); 3] =
        [(&room_id, Type::TEXT), (&after, Type::INT8), (&limit, Type::INT8)];
    Ok(read_page(transaction, &sql, &parameters).await?.events)
}

/// Of some events, those that need `state_after`: at least one of their predecessors is not held, or is
/// an outlier.
///
/// # Errors
/// When the database fails.
pub(crate) async fn with_missing_predecessors(
    transaction: &Transaction<'_>,
    event_ids: &[String],
) -> Result<Vec<String>, Error> {
    let sql = "select distinct d.event_id from event_edges d \
         join events e on e.event_id = d.event_id and not e.outlier \
         left join events p on p.event_id = d.prev_event_id and p.room_id = e.room_id \
                               and not p.outlier \
         where d.event_id = any($1) and not d.is_state and p.event_id is null";
    let rows = transaction.query_typed(sql, &[(&event_ids, Type::TEXT_ARRAY)]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

async fn read(
    transaction: &Transaction<'_>,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<EventRow>, Error> {
    let rows = transaction.query_typed(sql, parameters).await?;
    rows.iter().map(EventRow::new).collect()
}

async fn read_page(
    transaction: &Transaction<'_>,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Page, Error> {
    let parameters = parameters.iter().map(|(value, kind)| (*value, kind.clone()));
    let rows = transaction.query_typed_raw(sql, parameters).await?;
    pin_mut!(rows);
    let (mut events, mut bytes) = (Vec::new(), 0_usize);
    while let Some(row) = rows.try_next().await? {
        let event = EventRow::new(&row)?;
        bytes = bytes.saturating_add(event.json.len());
        events.push(event);
        if bytes > MAX_PAGE_BYTES {
            return Ok(Page { events, is_complete: false });
        }
    }
    Ok(Page { events, is_complete: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_with_and_without_spaces() {
        for (notes, expected) in [
            ("{}", false),
            (r#"{"soft_failed":true}"#, true),
            (r#"{"soft_failed": true, "token_id": 3}"#, true),
            (r#"{"soft_failed": false}"#, false),
            (r#"{"soft_failed":null}"#, false),
            (r#"{"x":{"soft_failed":true}}"#, false),
            ("", false),
            ("null", false),
        ] {
            assert_eq!(is_soft_failed(notes), expected, "{notes}");
        }
    }
}

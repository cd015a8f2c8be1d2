//! Digests of rooms, as `GetRoomDigest` of the history service defines them, and the flags of events.
//! `digest.rs` computes the same in Rust.

use std::collections::BTreeMap;

use tokio_postgres::{
    Transaction,
    types::{ToSql, Type},
};

use crate::{
    digest::{HeldAs, Parts, RoomParts},
    proto::v1::DigestPart,
};

/// The events that can be copied, with the hash of the id and the byte of the flags. A client may
/// choose parts of `internal_metadata`, but cannot write a quote without a backslash before it.
macro_rules! flagged_events {
    ($condition:literal) => {
        concat!(
            "select e.room_id, e.event_id, sha256(convert_to(e.event_id, 'UTF8')) as id_hash, ",
            "  case when e.outlier then 1 else 0 end + case ",
            "    when e.rejection_reason is not null or x.event_id is not null then 2 ",
            "    when j.internal_metadata ~ '\"soft_failed\"\\s*:\\s*true' then 4 ",
            "    else 0 end as flags ",
            "from events e join event_json j on j.event_id = e.event_id ",
            "left join rejections x on x.event_id = e.event_id ",
            "where ",
            $condition
        )
    };
}

/// The first bits of the hash as a number; `$2` is their number.
macro_rules! prefix {
    () => {
        "((get_byte(id_hash, 0) << 8) | get_byte(id_hash, 1)) >> (16 - $2::int)"
    };
}

/// The number of events, and the exclusive or of their digests.
macro_rules! sums {
    () => {
        "count(*), bit_xor(('x' || encode(substring(sha256(substring(id_hash for 16) \
         || set_byte('\\x00'::bytea, 0, flags)) for 8), 'hex'))::bit(64)::bigint)"
    };
}

/// `$1` are rooms.
const READ_ROOMS: &str = concat!(
    "select room_id, ",
    sums!(),
    " from (",
    flagged_events!("e.room_id = any($1)"),
    ") f group by room_id"
);

/// `$1` is a room, `$2` a number of bits.
const READ_PARTS: &str = concat!(
    "select ",
    prefix!(),
    ", ",
    sums!(),
    " from (",
    flagged_events!("e.room_id = $1"),
    ") f group by 1"
);

/// `$1` is a room, `$2` a number of bits, `$3` are the parts to list.
const LIST_PARTS: &str = concat!(
    "select event_id, flags from (",
    flagged_events!("e.room_id = $1"),
    ") f where ",
    prefix!(),
    " = any($3)"
);

/// Reads the digests of many rooms, each as one part. Rooms without events are absent.
pub(crate) async fn of_rooms(
    transaction: &Transaction<'_>,
    room_ids: &[String],
) -> Result<BTreeMap<String, DigestPart>, tokio_postgres::Error> {
    let rows = transaction.query_typed(READ_ROOMS, &[(&room_ids, Type::TEXT_ARRAY)]).await?;
    let rows = rows.into_iter().map(|row| {
        let part =
            DigestPart { event_count: unsigned(row.try_get(1)?), digest: bits(row.try_get(2)?) };
        Ok((row.try_get(0)?, part))
    });
    rows.collect()
}

/// Reads the digests of the parts of a room.
pub(crate) async fn of_parts(
    transaction: &Transaction<'_>,
    room: RoomParts<'_>,
) -> Result<Parts, tokio_postgres::Error> {
    let RoomParts { room_id, prefix_bits } = room;
    let bit_count = i32::try_from(prefix_bits).unwrap_or(i32::MAX);
    let mut parts = Parts::empty(prefix_bits);
    let values: [(&(dyn ToSql + Sync), Type); 2] =
        [(&room_id, Type::TEXT), (&bit_count, Type::INT4)];
    for row in transaction.query_typed(READ_PARTS, &values).await? {
        let at = usize::try_from(row.try_get::<_, i32>(0)?).unwrap_or(usize::MAX);
        if let Some(part) = parts.0.get_mut(at) {
            part.event_count = unsigned(row.try_get(1)?);
            part.digest = bits(row.try_get(2)?);
        }
    }
    Ok(parts)
}

/// Reads the flags of the events of some parts of a room.
pub(crate) async fn list_parts(
    transaction: &Transaction<'_>,
    room: RoomParts<'_>,
    prefixes: &[u32],
) -> Result<BTreeMap<String, HeldAs>, tokio_postgres::Error> {
    let RoomParts { room_id, prefix_bits } = room;
    let bit_count = i32::try_from(prefix_bits).unwrap_or(i32::MAX);
    let prefixes: Vec<i32> = prefixes.iter().filter_map(|it| i32::try_from(*it).ok()).collect();
    let values: [(&(dyn ToSql + Sync), Type); 3] =
        [(&room_id, Type::TEXT), (&bit_count, Type::INT4), (&prefixes, Type::INT4_ARRAY)];
    let rows = transaction.query_typed(LIST_PARTS, &values).await?;
    let rows = rows.into_iter().map(|row| {
        let flags = u8::try_from(row.try_get::<_, i32>(1)?).unwrap_or_default();
        Ok((row.try_get(0)?, HeldAs::of_flags(flags)))
    });
    rows.collect()
}

/// A count, which is never negative.
fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

/// The bits of a number that PostgreSQL can only return with a sign.
fn bits(signed: i64) -> u64 {
    signed.cast_unsigned()
}

//! The stream of invalid cache entries. Rows are deleted after seven days.

use std::collections::BTreeSet;

use tokio_postgres::{
    Transaction,
    types::{ToSql, Type},
};

/// The most rows that are read at once.
const MAX_ROWS: usize = 20_000;

/// `$1` is an id, `$2` other ids, `$3` functions, `$4` the most rows.
const READ: &str = "
    (select stream_id, cache_func, case when cache_func = any($3) then keys end
       from cache_invalidation_stream_by_instance where stream_id = any($2))
    union all
    (select stream_id, cache_func, case when cache_func = any($3) then keys end
       from cache_invalidation_stream_by_instance where stream_id > $1
      order by stream_id limit $4)";

const READ_BOUNDS: &str = "
    select (select stream_id from cache_invalidation_stream_by_instance
             order by stream_id limit 1),
           (select stream_id from cache_invalidation_stream_by_instance
             order by stream_id desc limit 1)";

const READ_LAST_IDS: &str = "
    select stream_id from cache_invalidation_stream_by_instance
     order by stream_id desc limit $1";

/// The rows to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// All rows with a higher id are read.
    pub(crate) above: i64,
    /// Rows with these ids are read too.
    pub(crate) ids: &'a [i64],
    /// The functions of which the keys are read.
    pub(crate) with_keys: &'a [&'a str],
}

/// One row: an entry of a cache, or a whole cache, is not valid any more.
#[derive(Clone, Debug)]
pub(crate) struct InvalidationRow {
    /// Its id.
    pub(crate) id: i64,
    /// The name of the cache.
    pub(crate) function: String,
    /// The keys of the entry. `None` if the whole cache is not valid, or if the keys were not wanted.
    pub(crate) keys: Option<Vec<String>>,
}

/// Some rows.
#[derive(Clone, Debug)]
pub(crate) struct RowsPage {
    /// The rows, in no particular order.
    pub(crate) rows: Vec<InvalidationRow>,
    /// Whether no more rows are visible.
    pub(crate) is_last: bool,
}

/// The lowest and the highest id of all rows; `None` if there are no rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdBounds {
    /// The lowest id.
    pub(crate) lowest: Option<i64>,
    /// The highest id.
    pub(crate) highest: Option<i64>,
}

/// Reads rows.
pub(crate) async fn read(
    transaction: &Transaction<'_>,
    wanted: Wanted<'_>,
) -> Result<RowsPage, tokio_postgres::Error> {
    let Wanted { above, ids, with_keys } = wanted;
    let limit = i64::try_from(MAX_ROWS).unwrap_or(i64::MAX);
    let values: [(&(dyn ToSql + Sync), Type); 4] = [
        (&above, Type::INT8),
        (&ids, Type::INT8_ARRAY),
        (&with_keys, Type::TEXT_ARRAY),
        (&limit, Type::INT8),
    ];
    let rows = transaction.query_typed(READ, &values).await?;
    let is_last = rows.len() < MAX_ROWS;
    let rows = rows.into_iter().map(|row| {
        Ok(InvalidationRow {
            id: row.try_get(0)?,
            function: row.try_get(1)?,
            // An array with a null in it is no key of a row that matters.
            keys: row
                .try_get::<_, Option<Vec<Option<String>>>>(2)?
                .map(|it| it.into_iter().flatten().collect()),
        })
    });
    Ok(RowsPage { rows: rows.collect::<Result<_, _>>()?, is_last })
}

/// Reads the lowest and the highest id.
pub(crate) async fn id_bounds(
    transaction: &Transaction<'_>,
) -> Result<IdBounds, tokio_postgres::Error> {
    let row = transaction.query_typed_one(READ_BOUNDS, &[]).await?;
    Ok(IdBounds { lowest: row.try_get(0)?, highest: row.try_get(1)? })
}

/// Reads the highest ids, at most `count`.
pub(crate) async fn last_ids(
    transaction: &Transaction<'_>,
    count: i64,
) -> Result<BTreeSet<i64>, tokio_postgres::Error> {
    let rows = transaction.query_typed(READ_LAST_IDS, &[(&count, Type::INT8)]).await?;
    rows.into_iter().map(|it| it.try_get(0)).collect()
}

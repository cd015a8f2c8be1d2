//! The keys of other servers, as Synapse has fetched them.

use tokio_postgres::{
    Error, Transaction,
    types::{ToSql, Type},
};

/// The answer of a server to `/_matrix/key/v2/server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeysRow {
    /// When Synapse fetched it, in milliseconds since 1970.
    pub(crate) fetched_ms: i64,
    /// The answer, JSON, byte for byte.
    pub(crate) answer: Vec<u8>,
}

/// Whether the role may read the keys.
///
/// # Errors
/// When the database fails.
pub(crate) async fn is_readable(transaction: &Transaction<'_>) -> Result<bool, Error> {
    let sql =
        "select coalesce(has_table_privilege(to_regclass('server_keys_json'), 'select'), false)";
    transaction.query_typed_one(sql, &[]).await?.try_get(0)
}

/// Reads the last answer of each server whose keys are valid and were fetched after a time, those that
/// were fetched first come first. The service keeps them for seven days, so older ones are left out.
///
/// # Errors
/// When the database fails.
pub(crate) async fn fetched_after(
    transaction: &Transaction<'_>,
    after_ms: i64,
    limit: i64,
) -> Result<Vec<KeysRow>, Error> {
    let sql = "select ts_added_ms, key_json from ( \
           select distinct on (server_name) ts_added_ms, ts_valid_until_ms, key_json \
           from server_keys_json order by server_name, ts_added_ms desc) k, \
           (select extract(epoch from now()) * 1000 as now_ms) t \
         where ts_added_ms > $1 and ts_added_ms > now_ms - 7 * 86400000::bigint \
           and ts_valid_until_ms > now_ms order by ts_added_ms limit $2";
    let parameters: [(&(dyn ToSql + Sync), Type); 2] =
        [(&after_ms, Type::INT8), (&limit, Type::INT8)];
    let rows = transaction.query_typed(sql, &parameters).await?;
    let rows =
        rows.iter().map(|row| Ok(KeysRow { fetched_ms: row.try_get(0)?, answer: row.try_get(1)? }));
    rows.collect()
}

//! What the database is and what the role may do, read from PostgreSQL's catalogue.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Error, Transaction, types::Type};

/// A column of a table, and its type.
pub(crate) type ColumnType = (&'static str, &'static str);

/// A table that the follower reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableNeeded {
    /// The name.
    pub(crate) name: &'static str,
    /// Its columns, with the names of their types in PostgreSQL's catalogue.
    pub(crate) columns: &'static [ColumnType],
    /// Whether it is in the database of state groups.
    pub(crate) is_state: bool,
    /// Whether every supported schema has it.
    pub(crate) is_required: bool,
}

const fn table(name: &'static str, columns: &'static [ColumnType]) -> TableNeeded {
    TableNeeded { name, columns, is_state: false, is_required: true }
}

const fn state_table(name: &'static str, columns: &'static [ColumnType]) -> TableNeeded {
    TableNeeded { is_state: true, ..table(name, columns) }
}

/// The tables that the follower reads.
pub(crate) const TABLES: &[TableNeeded] = &[
    table(
        "events",
        &[
            ("event_id", "text"),
            ("room_id", "text"),
            ("outlier", "bool"),
            ("stream_ordering", "int8"),
            ("rejection_reason", "text"),
            ("instance_name", "text"),
        ],
    ),
    table("event_json", &[("event_id", "text"), ("json", "text"), ("internal_metadata", "text")]),
    table("event_edges", &[("event_id", "text"), ("prev_event_id", "text"), ("is_state", "bool")]),
    table("rejections", &[("event_id", "text")]),
    table("rooms", &[("room_id", "text"), ("room_version", "text")]),
    table("event_to_state_groups", &[("event_id", "text"), ("state_group", "int8")]),
    table("erased_users", &[("user_id", "text")]),
    table("blocked_rooms", &[("room_id", "text")]),
    table("partial_state_rooms", &[("room_id", "text")]),
    table(
        "stream_positions",
        &[("stream_name", "text"), ("instance_name", "text"), ("stream_id", "int8")],
    ),
    table("ex_outlier_stream", &[("event_stream_ordering", "int8"), ("event_id", "text")]),
    table("un_partial_stated_event_stream", &[("stream_id", "int8"), ("event_id", "text")]),
    table(
        "cache_invalidation_stream_by_instance",
        &[("stream_id", "int8"), ("cache_func", "text"), ("keys", "_text")],
    ),
    table("schema_version", &[("version", "int4")]),
    table("schema_compat_version", &[("compat_version", "int4")]),
    table("background_updates", &[("update_name", "text")]),
    TableNeeded {
        is_required: false,
        ..table("room_ban_redactions", &[("room_id", "text"), ("redact_end_ordering", "int8")])
    },
    state_table(
        "state_groups_state",
        &[("state_group", "int8"), ("type", "text"), ("state_key", "text"), ("event_id", "text")],
    ),
    state_table("state_group_edges", &[("state_group", "int8"), ("prev_state_group", "int8")]),
];

/// A table as it is in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableFound {
    /// Its columns, and the names of their types.
    pub(crate) columns: BTreeMap<String, String>,
    /// Whether the role may read it.
    pub(crate) is_readable: bool,
    /// Whether the role may change it.
    pub(crate) is_writable: bool,
}

/// What a database is and what the role may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// PostgreSQL's version, such as 150004.
    pub(crate) server_version: i32,
    /// The name of the role.
    pub(crate) role: String,
    /// Whether the role is a superuser.
    pub(crate) is_superuser: bool,
    /// Whether the server is a replica.
    pub(crate) is_replica: bool,
    /// The tables that exist.
    pub(crate) tables: BTreeMap<String, TableFound>,
}

/// What Synapse notes about its schema.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SynapseSchema {
    /// The version of the schema; `None` if it is not noted.
    pub(crate) version: Option<i32>,
    /// The lowest version whose program may use this schema; `None` if it is not noted.
    pub(crate) compat_version: Option<i32>,
    /// The background updates that have not ended.
    pub(crate) background_updates: BTreeSet<String>,
}

/// Reads what the database is and what the role may do.
///
/// # Errors
/// When the database fails.
pub(crate) async fn facts(transaction: &Transaction<'_>) -> Result<Facts, Error> {
    let sql = "select current_setting('server_version_num')::int, current_user::text, \
               coalesce((select rolsuper from pg_roles where rolname = current_user), false), \
               pg_is_in_recovery()";
    let row = transaction.query_typed_one(sql, &[]).await?;
    let mut facts = Facts {
        server_version: row.try_get(0)?,
        role: row.try_get(1)?,
        is_superuser: row.try_get(2)?,
        is_replica: row.try_get(3)?,
        tables: BTreeMap::new(),
    };
    let sql = "select c.relname::text, a.attname::text, t.typname::text, \
                 has_table_privilege(c.oid, 'select'), \
                 has_table_privilege(c.oid, 'insert, update, delete, truncate') \
               from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 \
                 join pg_type t on t.oid = a.atttypid \
               where c.relname = any($1) and c.relkind in ('r', 'p', 'v') \
                 and pg_table_is_visible(c.oid)";
    let names: Vec<&str> = TABLES.iter().map(|it| it.name).collect();
    for row in transaction.query_typed(sql, &[(&names, Type::TEXT_ARRAY)]).await? {
        let table = facts.tables.entry(row.try_get(0)?).or_default();
        table.columns.insert(row.try_get(1)?, row.try_get(2)?);
        table.is_readable = row.try_get(3)?;
        table.is_writable = row.try_get(4)?;
    }
    Ok(facts)
}

/// Reads what Synapse notes about its schema. The tables must be readable.
///
/// # Errors
/// When the database fails.
pub(crate) async fn synapse_schema(transaction: &Transaction<'_>) -> Result<SynapseSchema, Error> {
    let sql = "select (select max(version) from schema_version), \
               (select max(compat_version) from schema_compat_version)";
    let row = transaction.query_typed_one(sql, &[]).await?;
    let updates =
        transaction.query_typed("select update_name from background_updates", &[]).await?;
    Ok(SynapseSchema {
        version: row.try_get(0)?,
        compat_version: row.try_get(1)?,
        background_updates: updates.iter().map(|it| it.try_get(0)).collect::<Result<_, _>>()?,
    })
}

/// The number of the server process of this transaction. If it changes between two transactions of one
/// connection, a pooler is between.
///
/// # Errors
/// When the database fails.
pub(crate) async fn backend(transaction: &Transaction<'_>) -> Result<i32, Error> {
    transaction.query_typed_one("select pg_backend_pid()", &[]).await?.try_get(0)
}

/// The server names of the senders of the newest local events: those that Synapse noted with the session
/// of a client.
///
/// # Errors
/// When the database fails.
pub(crate) async fn server_names(transaction: &Transaction<'_>) -> Result<BTreeSet<String>, Error> {
    let sql = "select distinct substr(j.json::json->>'sender', strpos(j.json::json->>'sender', ':') + 1) \
               from (select event_id from events order by stream_ordering desc limit 1000) e \
               join event_json j on j.event_id = e.event_id \
               where j.internal_metadata like '%\"token_id\"%' and j.json not like '%\\\\u0000%'";
    let rows = transaction.query_typed(sql, &[]).await?;
    let names = rows.iter().map(|it| it.try_get::<_, Option<String>>(0));
    Ok(names.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

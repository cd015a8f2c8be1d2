//! What a database must be before a store in it is opened: it keeps what it has acknowledged, and
//! `backscroll prepare` has made the tables for this build and this role.

use std::time::Duration;

use backscroll_postgres::Connector;
use tokio_postgres::Row;

use super::{Database, Failure, Statement, now};
use crate::store::{EngineError, PostgresPlace, StoreError, engine::Replication};

/// The version of the tables that this build reads and writes.
pub(in super::super) const SCHEMA_VERSION: u32 = 1;
/// The comment on the table `store_word`, before the version.
const COMMENT: &str = "backscroll schema ";

/// The settings; then the schema and its version.
const SETTINGS: &str = "select current_setting('fsync', true), \
     current_setting('full_page_writes', true), current_setting('synchronous_commit', true), \
     current_schema()::text, obj_description(to_regclass('store_word')::oid, 'pg_class')";
/// The rights that the role does not have.
const MISSING_RIGHTS: &str = "select coalesce(string_agg(a_right || ' on ' || of, ', '), '') from \
     unnest(string_to_array('room,event_id,page,body,block,state,given,note,store_word', ',')) of, \
     unnest(string_to_array('select,insert,update,delete', ',')) a_right \
     where not coalesce(has_table_privilege(to_regclass(of), a_right), false)";
/// Servers that copy this one, and whether commits wait for any. The states of the copying are hidden
/// from ordinary roles.
const REPLICATION: &str = "select (select count(*) from pg_stat_replication), \
     coalesce(current_setting('synchronous_standby_names', true), '') <> ''";

impl Database {
    /// Connects to a database, and checks that a store can be kept in it.
    ///
    /// # Errors
    /// When no server answers within `patience`; when it refuses the role; when it may lose what it has
    /// acknowledged; when the tables are missing, or of a newer build.
    pub(in super::super) fn open_checked(
        place: &PostgresPlace,
        patience: Duration,
    ) -> Result<Self, StoreError> {
        let connector =
            Connector::new(place.address()).map_err(|it| Failure::from(it).into_error())?;
        let database = Self::open(connector, patience)?;
        database.refuse_hopeless()?;
        database.check()?;
        Ok(database)
    }

    /// Fails at once if the server refuses us for a reason that waiting does not change.
    fn refuse_hopeless(&self) -> Result<(), StoreError> {
        let deadline = now() + self.patience;
        let shared = std::sync::Arc::clone(&self.shared);
        let connecting = async move { shared.reading.least_busy(deadline).await.map(drop) };
        match self.wait(deadline, connecting) {
            Some(Err(failure)) if failure.is_final => Err(failure.into_error()),
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        let asked = [SETTINGS, MISSING_RIGHTS].map(|sql| Statement::new(sql, Vec::new()));
        let rows = self.flight(asked.into())?.rows;
        let mut rows = rows.iter().map(|it| it.first());
        let (Some(settings), Some(rights)) = (rows.next().flatten(), rows.next().flatten()) else {
            return Err(said_nothing());
        };
        check_settings(settings)?;
        let schema = text(settings, 3)?;
        let version = text(settings, 4)?.as_deref().and_then(version_in);
        check_version(version, schema.as_deref())?;
        match text(rights, 0)?.filter(|it| !it.is_empty()) {
            Some(missing) => Err(StoreError::NotPrepared(format!("the role lacks {missing}"))),
            None => Ok(()),
        }
    }

    /// The servers that copy the database, and whether commits wait for any.
    pub(in super::super) fn replication(&self) -> Result<Replication, StoreError> {
        let rows = self.select(Statement::new(REPLICATION, Vec::new()))?.rows;
        let row = rows.first().ok_or_else(said_nothing)?;
        let standbys = row.try_get::<_, i64>(0).map_err(|_| said_nothing())?;
        let is_waited_for = row.try_get(1).map_err(|_| said_nothing())?;
        Ok(Replication { standbys: u64::try_from(standbys).unwrap_or(0), is_waited_for })
    }
}

/// Refuses a server that may lose what it has acknowledged. A setting that the server does not know is
/// not a setting of PostgreSQL itself, and cannot be judged here.
fn check_settings(row: &Row) -> Result<(), StoreError> {
    let safe: [(&'static str, &[&str]); 3] = [
        ("fsync", &["on"]),
        ("full_page_writes", &["on"]),
        // `remote_write` and `local` wait for less than a disk of a synchronous standby.
        ("synchronous_commit", &["on", "remote_apply"]),
    ];
    for (position, (setting, values)) in safe.into_iter().enumerate() {
        match text(row, position)? {
            Some(value) if !values.contains(&value.as_str()) => {
                return Err(StoreError::UnsafeSetting { setting, value });
            }
            Some(_) => {}
            None => tracing::warn!(setting, "the database server does not know this setting"),
        }
    }
    Ok(())
}

/// Refuses tables that are missing, or of another build.
fn check_version(version: Option<u32>, schema: Option<&str>) -> Result<(), StoreError> {
    match version {
        Some(SCHEMA_VERSION) => Ok(()),
        Some(found) if found > SCHEMA_VERSION => {
            Err(StoreError::NewerFormat { found, known: SCHEMA_VERSION })
        }
        Some(found) => Err(StoreError::NotPrepared(format!("its tables have version {found}"))),
        None => {
            let schema = schema.unwrap_or("of the search path, which does not exist");
            Err(StoreError::NotPrepared(format!(
                "there are no tables of ours in the schema {schema}"
            )))
        }
    }
}

/// The version of the tables, in the comment on one of them.
pub(in super::super) fn version_in(comment: &str) -> Option<u32> {
    comment.strip_prefix(COMMENT)?.parse().ok()
}

/// The statement that notes the version of the tables.
pub(in super::super) fn note_version() -> String {
    format!("comment on table store_word is '{COMMENT}{SCHEMA_VERSION}'")
}

fn text(row: &Row, column: usize) -> Result<Option<String>, StoreError> {
    row.try_get(column).map_err(|_| said_nothing())
}

fn said_nothing() -> StoreError {
    EngineError::Failed("the database server does not say how it is set up".to_owned()).into()
}

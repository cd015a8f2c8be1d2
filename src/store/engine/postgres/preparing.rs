//! Makes the tables, and gives a role what it needs for serving. Nothing else changes them.

use backscroll_postgres::Connector;
use tokio_postgres::{Client, error::SqlState};

use super::database::{Failure, SCHEMA, SCHEMA_VERSION, note_version, version_in};
use crate::store::{EngineError, PostgresPlace, StoreError};

/// The tables with records of rooms, the one that says where the others are first.
const ROOM_TABLES: [&str; 8] =
    ["room", "event_id", "page", "body", "block", "state", "given", "note"];
/// The table of all other records.
const STORE_TABLE: &str = "store_word";
/// How often the tables are made if others make them at the same time.
const ATTEMPTS: u32 = 5;

/// How a database is prepared.
#[derive(Clone, Debug, Default)]
pub struct Preparation {
    /// Whether the tables are spread over the servers of Citus.
    pub citus: bool,
    /// The role that serves the store. It gets what it needs for that, and nothing else.
    pub serve_role: Option<String>,
}

/// Makes the tables of a store in a database, in the first schema of the search path, or leaves them as
/// they are. Returns what was done, a line each.
///
/// # Errors
/// When the database cannot be reached, or the role may not do that; when the tables are of a newer
/// build.
pub async fn prepare(
    place: &PostgresPlace,
    preparation: &Preparation,
) -> Result<Vec<String>, StoreError> {
    let connector = Connector::new(place.address()).map_err(|it| Failure::from(it).into_error())?;
    let mut attempt = 1;
    loop {
        let client = connector.connect().await.map_err(|it| Failure::from(it).into_error())?;
        match Preparing(client).run(preparation).await {
            Err(NotDone::Server(error)) if attempt < ATTEMPTS && is_race(&error) => attempt += 1,
            Err(NotDone::Server(error)) => return Err(Failure::from(error).into_error()),
            Err(NotDone::Other(error)) => return Err(error),
            Ok(done) => return Ok(done),
        }
    }
}

/// A connection over which a database is prepared.
struct Preparing(Client);

/// Why a database is not prepared.
enum NotDone {
    Server(tokio_postgres::Error),
    Other(StoreError),
}

impl From<tokio_postgres::Error> for NotDone {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error)
    }
}

impl From<StoreError> for NotDone {
    fn from(error: StoreError) -> Self {
        Self::Other(error)
    }
}

impl Preparing {
    async fn run(mut self, preparation: &Preparation) -> Result<Vec<String>, NotDone> {
        let mut done = Vec::new();
        let schema = self.schema(&mut done).await?;
        self.make_tables(&schema, &mut done).await?;
        if preparation.citus {
            self.spread(&mut done).await?;
        }
        if let Some(role) = &preparation.serve_role {
            self.grant(&schema, role, &mut done).await?;
        }
        Ok(done)
    }

    /// The schema for the tables: the first of the search path, which is made if none of them exists.
    async fn schema(&self, done: &mut Vec<String>) -> Result<String, NotDone> {
        if let Some(schema) = self.text("select current_schema()::text").await? {
            return Ok(schema);
        }
        let path = self.text("select current_setting('search_path')").await?.unwrap_or_default();
        let names = path.split(',').map(|it| it.trim().trim_matches('"'));
        let schema = names.into_iter().find(|it| !it.is_empty() && *it != "$user");
        let schema = schema.ok_or_else(|| failed("the search path of the role has no schema"))?;
        self.0.batch_execute(&format!("create schema if not exists {}", quoted(schema))).await?;
        done.push(format!("made the schema {schema}"));
        Ok(schema.to_owned())
    }

    async fn make_tables(&mut self, schema: &str, done: &mut Vec<String>) -> Result<(), NotDone> {
        let sql = "select obj_description(to_regclass('store_word')::oid, 'pg_class')";
        let version = self.text(sql).await?.as_deref().and_then(version_in);
        match version {
            Some(found) if found > SCHEMA_VERSION => {
                return Err(StoreError::NewerFormat { found, known: SCHEMA_VERSION }.into());
            }
            Some(SCHEMA_VERSION) => {
                done.push(format!(
                    "the tables are in the schema {schema}, with version {SCHEMA_VERSION}"
                ));
                return Ok(());
            }
            Some(_) | None => {}
        }
        let transaction = self.0.transaction().await?;
        transaction.batch_execute(SCHEMA).await?;
        transaction.batch_execute(&note_version()).await?;
        transaction.commit().await?;
        done.push(format!("made the tables in the schema {schema}, with version {SCHEMA_VERSION}"));
        Ok(())
    }

    /// Spreads the tables over the servers of Citus: the rows of a room are together, and each server has
    /// a copy of the records that are of no room.
    async fn spread(&self, done: &mut Vec<String>) -> Result<(), NotDone> {
        if self
            .text("select extname::text from pg_extension where extname = 'citus'")
            .await?
            .is_none()
        {
            let advice =
                "the database has no extension citus: `create extension citus` there first";
            return Err(failed(advice));
        }
        // The one that is copied first: it may not follow the others in one transaction.
        self.spread_one(STORE_TABLE, "create_reference_table('store_word')", done).await?;
        for table in ROOM_TABLES {
            let beside = if table == "room" { "" } else { ", colocate_with => 'room'" };
            let call = format!("create_distributed_table('{table}', 'room'{beside})");
            self.spread_one(table, &call, done).await?;
        }
        Ok(())
    }

    async fn spread_one(
        &self,
        table: &str,
        call: &str,
        done: &mut Vec<String>,
    ) -> Result<(), NotDone> {
        let spread = format!(
            "select logicalrelid::text from pg_dist_partition where logicalrelid = '{table}'::regclass"
        );
        if self.text(&spread).await?.is_some() {
            done.push(format!("{table} is spread over the servers of Citus"));
        } else {
            self.0.batch_execute(&format!("select {call}")).await?;
            done.push(format!("spread {table} over the servers of Citus"));
        }
        Ok(())
    }

    async fn grant(&self, schema: &str, role: &str, done: &mut Vec<String>) -> Result<(), NotDone> {
        let (quoted_schema, quoted_role) = (quoted(schema), quoted(role));
        let tables = format!("{}, {STORE_TABLE}", ROOM_TABLES.join(", "));
        let grants = format!(
            "grant usage on schema {quoted_schema} to {quoted_role}; \
             grant select, insert, update, delete on {tables} to {quoted_role}"
        );
        self.0.batch_execute(&grants).await?;
        done.push(format!("{role} may read and write the tables, and change nothing else"));
        Ok(())
    }

    /// The first column of the first row; `None` if there is no row, or a null.
    async fn text(&self, sql: &str) -> Result<Option<String>, NotDone> {
        let rows = self.0.query_typed(sql, &[]).await?;
        rows.first().map_or(Ok(None), |it| Ok(it.try_get(0)?))
    }
}

/// Whether another process has prepared the database at the same time.
fn is_race(error: &tokio_postgres::Error) -> bool {
    let codes = [
        SqlState::UNIQUE_VIOLATION,
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_SCHEMA,
        SqlState::DUPLICATE_OBJECT,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        // "tuple concurrently updated"
        SqlState::INTERNAL_ERROR,
    ];
    error.code().is_some_and(|it| codes.contains(it))
}

fn failed(text: &str) -> NotDone {
    NotDone::Other(EngineError::Failed(text.to_owned()).into())
}

/// A name as SQL writes it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

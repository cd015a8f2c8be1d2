//! Failures of statements and connections, by what can be done about them.

use backscroll_postgres::ConnectError;
use tokio_postgres::error::SqlState;

use crate::store::{EngineError, StoreError};

/// What can be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The server cannot be reached, is starting or stopping, or is a standby: another connection may
    /// help. Nothing is applied, unless it was the answer to a commit that was lost.
    Away,
    /// The server gave the transaction up in favour of another: send it again.
    Serialisation,
    /// The guard of a transaction has failed.
    Guard,
    /// Anything else.
    Other,
}

/// A failure of a statement or a connection.
#[derive(Debug)]
pub(in super::super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) text: String,
    /// Whether the server said so.
    pub(super) is_from_server: bool,
    code: Option<SqlState>,
    /// Whether no later attempt helps before a setting is changed.
    pub(super) is_final: bool,
}

impl Failure {
    /// The server cannot be reached.
    pub(super) fn away(text: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Away,
            text: text.into(),
            is_from_server: false,
            code: None,
            is_final: false,
        }
    }

    /// The wait for the server has ended.
    pub(super) fn too_late(text: &str) -> Self {
        Self::away(text)
    }

    /// Something that no other connection mends.
    pub(super) fn other(text: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Other,
            text: text.into(),
            is_from_server: false,
            code: None,
            is_final: false,
        }
    }

    /// The failure as an error of the store.
    pub(in super::super) fn into_error(self) -> StoreError {
        let Self { kind, text, code, .. } = self;
        let engine = match (kind, code) {
            (FailureKind::Away | FailureKind::Serialisation, _) => EngineError::Away(text),
            (_, Some(code)) if code == SqlState::DISK_FULL => {
                return StoreError::DatabaseFull(text);
            }
            (_, Some(code)) if is_damage(&code) => EngineError::Damaged(text),
            (_, Some(code)) if is_unprepared(&code) => return StoreError::NotPrepared(text),
            _ => EngineError::Failed(text),
        };
        engine.into()
    }
}

/// The server has found that its files are damaged.
fn is_damage(code: &SqlState) -> bool {
    [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code)
}

/// A table is missing, or the role may not use it.
fn is_unprepared(code: &SqlState) -> bool {
    [
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ]
    .contains(code)
}

fn kind_of(code: &SqlState) -> FailureKind {
    let away = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::QUERY_CANCELED,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
    ];
    let guards =
        [SqlState::NOT_NULL_VIOLATION, SqlState::UNIQUE_VIOLATION, SqlState::DIVISION_BY_ZERO];
    let serialisations = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED];
    if guards.contains(code) {
        FailureKind::Guard
    } else if serialisations.contains(code) {
        FailureKind::Serialisation
    } else if away.contains(code) || code.code().starts_with("08") {
        FailureKind::Away
    } else {
        FailureKind::Other
    }
}

/// A wrong password or certificate is like a server that is away: an operator may be changing it.
impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self { is_final: error.is_final(), ..Self::away(error.to_string()) }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // The detail may quote the values of a row.
            Some(said) => Self {
                kind: kind_of(said.code()),
                text: format!("{} ({})", said.message(), said.code().code()),
                is_from_server: true,
                code: Some(said.code().clone()),
                is_final: false,
            },
            None => {
                let cause = std::error::Error::source(&error).map(|it| format!(": {it}"));
                Self::away(format!("{error}{}", cause.unwrap_or_default()))
            }
        }
    }
}

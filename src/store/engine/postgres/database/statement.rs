//! Statements and their parameters. Types are sent with each statement, so that nothing is prepared and
//! a connection pool between this program and the server may give each transaction another connection.

use std::borrow::Cow;

use bytes::BytesMut;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

/// One statement with its parameters.
#[derive(Clone, Debug)]
pub(in super::super) struct Statement {
    pub(in super::super) sql: Cow<'static, str>,
    pub(in super::super) params: Vec<Param>,
}

impl Statement {
    /// A statement with its parameters.
    pub(in super::super) fn new(sql: impl Into<Cow<'static, str>>, params: Vec<Param>) -> Self {
        Self { sql: sql.into(), params }
    }
}

/// A parameter of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Param {
    /// `uuid`.
    Uuid([u8; 16]),
    /// `uuid[]`.
    Uuids(Vec<[u8; 16]>),
    /// `bigint`.
    Int8(i64),
    /// `boolean`.
    Bool(bool),
    /// `text`.
    Text(String),
    /// `bytea`, or null.
    Bytes(Option<Vec<u8>>),
    /// `bytea[]`.
    ManyBytes(Vec<Vec<u8>>),
}

impl Param {
    /// The type of the parameter.
    pub(super) fn of_type(&self) -> Type {
        match self {
            Self::Uuid(_) => Type::UUID,
            Self::Uuids(_) => Type::UUID_ARRAY,
            Self::Int8(_) => Type::INT8,
            Self::Bool(_) => Type::BOOL,
            Self::Text(_) => Type::TEXT,
            Self::Bytes(_) => Type::BYTEA,
            Self::ManyBytes(_) => Type::BYTEA_ARRAY,
        }
    }
}

/// The bytes of a `uuid`.
#[derive(Debug)]
struct Uuid([u8; 16]);

impl ToSql for Uuid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::UUID
    }

    to_sql_checked!();
}

type BoxError = Box<dyn std::error::Error + Sync + Send>;

impl ToSql for Param {
    fn to_sql(&self, of: &Type, out: &mut BytesMut) -> Result<IsNull, BoxError> {
        match self {
            Self::Uuid(uuid) => Uuid(*uuid).to_sql(of, out),
            Self::Uuids(uuids) => {
                uuids.iter().copied().map(Uuid).collect::<Vec<_>>().to_sql(of, out)
            }
            Self::Int8(number) => number.to_sql(of, out),
            Self::Bool(is) => is.to_sql(of, out),
            Self::Text(text) => text.to_sql(of, out),
            Self::Bytes(bytes) => bytes.to_sql(of, out),
            Self::ManyBytes(bytes) => bytes.to_sql(of, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Binary
    }

    to_sql_checked!();
}

/// The bytes of a column of type `uuid`.
#[derive(Clone, Copy)]
pub(in super::super) struct UuidBytes(pub(in super::super) [u8; 16]);

impl<'r> tokio_postgres::types::FromSql<'r> for UuidBytes {
    fn from_sql(_: &Type, raw: &'r [u8]) -> Result<Self, BoxError> {
        Ok(Self(raw.try_into()?))
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::UUID
    }
}

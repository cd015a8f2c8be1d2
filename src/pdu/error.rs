//! The reasons why bytes are not an event. Their texts name a member and a fault, never the content of
//! the event.

use backscroll_matrix::{JsonError, JsonFault, Overflow};

/// The reason why bytes are not a PDU of the given room version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PduError {
    /// The bytes are not JSON.
    #[error("not JSON, at line {line}, column {column}")]
    NotJson {
        /// The line of the fault, from 1; 0 if the bytes are not UTF-8.
        line: usize,
        /// The column of the fault in bytes, from 1; 0 if the bytes are not UTF-8.
        column: usize,
    },
    /// The JSON has something in it that the room version does not allow.
    #[error("JSON that the room version does not allow: {0}")]
    BadJson(#[from] JsonFault),
    /// A member is missing, has the wrong type or is out of range.
    #[error("{member} {why}")]
    Format {
        /// The name of the member, with dots between levels.
        member: &'static str,
        /// The fault, as a predicate: "is missing".
        why: &'static str,
    },
    /// The event is larger than events may be.
    #[error("{size} bytes are more than the {limit} allowed")]
    TooLarge {
        /// The size of the event in bytes.
        size: usize,
        /// The greatest size allowed, in bytes.
        limit: usize,
    },
}

impl PduError {
    /// A fault of a member.
    pub(super) fn format(member: &'static str, why: &'static str) -> Self {
        Self::Format { member, why }
    }
}

impl From<JsonError> for PduError {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::NotJson { line, column } => Self::NotJson { line, column },
            JsonError::Fault(fault) => Self::BadJson(fault),
        }
    }
}

impl From<Overflow> for PduError {
    fn from(_: Overflow) -> Self {
        Self::BadJson(JsonFault::Overflow)
    }
}

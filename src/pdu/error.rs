//! Why bytes are not an event. Texts name the member and the reason, never what the event says.

/// Why bytes are not a PDU of the given room version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PduError {
    /// The bytes are no JSON text at all.
    #[error("not JSON, at line {line}, column {column}")]
    NotJson {
        /// Line of the fault, from 1; 0 where the bytes are not UTF-8.
        line: usize,
        /// Column of the fault, in bytes, from 1; 0 where the bytes are not UTF-8.
        column: usize,
    },
    /// JSON, but with something in it that the room version does not allow.
    #[error("JSON that the room version does not allow: {0}")]
    BadJson(#[from] BadJson),
    /// A member is missing, has the wrong type or is out of range.
    #[error("{member} {why}")]
    Format {
        /// The member, with dots between levels.
        member: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The event is larger than events may be.
    #[error("{size} bytes are more than the {limit} allowed")]
    TooLarge {
        /// How many bytes it has.
        size: usize,
        /// How many it may have.
        limit: usize,
    },
}

impl PduError {
    /// Says what is wrong with a member.
    pub(super) fn format(member: &'static str, why: &'static str) -> Self {
        Self::Format { member, why }
    }
}

/// What of JSON a room version does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadJson {
    /// From room version 6: a fraction, an exponent, `-0`, or more than 2^53 − 1 either way.
    #[error("a number is not an integer within ±(2^53 − 1)")]
    Number,
    /// No float can hold the number: `1e400`. Also integers of more than 4,300 digits.
    #[error("a number overflows")]
    Overflow,
    /// From room version 6: two members of one object have the same name.
    #[error("a member stands twice")]
    DuplicateMember,
    /// `\ud800` without its other half has no UTF-8 form.
    #[error("a string holds half a surrogate pair")]
    LoneSurrogate,
    /// More than [`MAX_LEVELS`](super::json::MAX_LEVELS) arrays and objects inside each other.
    #[error("nested too deeply")]
    TooDeep,
}

impl From<backscroll_matrix::Overflow> for PduError {
    fn from(_: backscroll_matrix::Overflow) -> Self {
        Self::BadJson(BadJson::Overflow)
    }
}

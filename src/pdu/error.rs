//! The reasons why bytes are not an event. Their texts name a member and a fault, never the content of
//! the event.

use serde::de::IgnoredAny;

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
    BadJson(#[from] BadJson),
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

/// Something in JSON that a room version does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadJson {
    /// From room version 6 on: a fraction, an exponent, `-0`, or an integer beyond ±(2^53 − 1).
    #[error("a number is not an integer within ±(2^53 − 1)")]
    Number,
    /// A number that no float can hold, such as `1e400`, or an integer of more than 4,300 digits.
    #[error("a number overflows")]
    Overflow,
    /// From room version 6 on: two members of one object have the same name.
    #[error("an object has two members of the same name")]
    DuplicateMember,
    /// Half a surrogate pair, such as `\ud800` alone. It has no UTF-8 form.
    #[error("a string holds half a surrogate pair")]
    LoneSurrogate,
    /// More than [`MAX_LEVELS`](super::json::MAX_LEVELS) levels of arrays and objects.
    #[error("nested too deeply")]
    TooDeep,
}

impl From<backscroll_matrix::Overflow> for PduError {
    fn from(_: backscroll_matrix::Overflow) -> Self {
        Self::BadJson(BadJson::Overflow)
    }
}

/// The reason why a reader failed on a text.
///
/// `fault` is what the reader itself found, if anything. It counts only if the whole text is JSON:
/// a reader stops at the first fault. To check that, serde skips over the text, and then it looks
/// neither into escapes nor at the size of numbers.
pub(super) fn syntax_error(
    text: &str,
    error: &serde_json::Error,
    fault: Option<BadJson>,
) -> PduError {
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        return PduError::NotJson { line: error.line(), column: error.column() };
    }
    if let Some(fault) = fault {
        return fault.into();
    }
    // The remaining faults are found by serde, which tells them apart by their texts only.
    match error.to_string() {
        text if text.starts_with("number out of range") => BadJson::Overflow.into(),
        text if text.starts_with("recursion limit") => BadJson::TooDeep.into(),
        _ => BadJson::LoneSurrogate.into(),
    }
}

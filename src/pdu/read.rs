//! Reads the JSON of an event: strictly first, and leniently if an old room version allows that.

use backscroll_matrix::{JsonError, JsonFault, StrictJson};
use ruma::CanonicalJsonValue;

use super::{
    error::PduError,
    json::{Json, Parsed},
    lenient,
    room_version::RoomVersion,
};

/// The greatest size of an event as canonical JSON without `unsigned`, in bytes.
pub const MAX_PDU_BYTES: usize = 65_536;
/// The greatest size of an event as it was received, in bytes. Every byte of an event may be escaped
/// with six (`\u0000`).
pub const MAX_RECEIVED_BYTES: usize = 6 * MAX_PDU_BYTES;

/// The JSON of an event, and its text.
pub(super) struct ReadEvent<'b> {
    /// The text without whitespace around it.
    pub(super) text: &'b str,
    pub(super) json: Json,
    /// Whether the text has a member `unsigned`.
    pub(super) has_unsigned: bool,
}

/// Reads the bytes of an event as its room version demands.
pub(super) fn read_event(bytes: &[u8], version: RoomVersion) -> Result<ReadEvent<'_>, PduError> {
    let bytes = trim(bytes);
    if bytes.len() > MAX_RECEIVED_BYTES {
        return Err(PduError::TooLarge { size: bytes.len(), limit: MAX_RECEIVED_BYTES });
    }
    let text = str::from_utf8(bytes).map_err(|_| PduError::NotJson { line: 0, column: 0 })?;
    let Parsed { value: json, unsigned: has_unsigned } = parse_json(text, version.strict_json())?;
    Ok(ReadEvent { text, json, has_unsigned })
}

/// Reads an object. If `strict`, it must be canonical JSON, apart from whitespace and order.
pub(super) fn parse_json(text: &str, strict: bool) -> Result<Parsed<Json>, PduError> {
    // `unsigned` is not part of the event, so its value is not checked.
    match StrictJson::read(text, Some("unsigned")) {
        Ok(StrictJson { value: CanonicalJsonValue::Object(object), has_ignored }) => {
            Ok(Parsed { value: Json { object, odd: Default::default() }, unsigned: has_ignored })
        }
        Ok(_) => Err(PduError::format("event", "is not an object")),
        // The strict reader reports very long integers as an overflow; the lenient one reads them.
        Err(JsonError::Fault(
            JsonFault::Number | JsonFault::Overflow | JsonFault::DuplicateMember,
        )) if !strict => lenient::parse(text),
        Err(error) => Err(error.into()),
    }
}

/// Removes the whitespace that JSON allows around a value.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let start = bytes.iter().position(|it| !is_space(it)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|it| !is_space(it)).map_or(start, |last| last + 1);
    bytes.get(start..end).unwrap_or_default()
}

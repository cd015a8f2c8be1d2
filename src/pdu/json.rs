//! The JSON of an event: a tree of what every room version allows, and beside it the numbers that
//! only old rooms allow.

use std::borrow::Cow;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    canonical_json::{RedactingSerializer, redact},
    room_version_rules::RedactionRules,
};
use serde::de::IgnoredAny;

use super::{
    canonical::{self, Odd, OddMembers},
    error::{BadJson, PduError},
    lenient, strict,
};

/// How many arrays and objects may stand inside each other, the event itself included. Readers
/// and writers of JSON call themselves for every level; Synapse's own limit is near 1,000, and no
/// event anyone has seen has more than a dozen.
pub(super) const MAX_LEVELS: usize = 100;

/// The members a signature or a reference hash does not cover.
const UNSIGNED_MEMBERS: &[&str] = &["signatures", "unsigned"];
/// The members a content hash does not cover.
const UNHASHED_MEMBERS: &[&str] = &["hashes", "signatures", "unsigned"];

/// An object without its `unsigned`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Json {
    /// The object; where a number is odd, it holds 0.
    pub(super) object: CanonicalJsonObject,
    /// The odd numbers. None from room version 6 on.
    pub(super) odd: OddMembers,
}

/// What was read, and whether a member `unsigned` was passed over.
pub(super) struct Parsed<T> {
    pub(super) value: T,
    pub(super) unsigned: bool,
}

impl Json {
    /// Reads an object; `strict` holds it to canonical JSON.
    pub(super) fn parse(text: &str, strict: bool) -> Result<Parsed<Self>, PduError> {
        match strict::parse(text) {
            Ok(Parsed { value: object, unsigned }) => {
                Ok(Parsed { value: Self { object, odd: OddMembers::new() }, unsigned })
            }
            // serde has no room for a very long integer either; the lenient reader has.
            Err(PduError::BadJson(
                BadJson::Number | BadJson::Overflow | BadJson::DuplicateMember,
            )) if !strict => lenient::parse(text),
            Err(error) => Err(error),
        }
    }

    /// The canonical text.
    pub(super) fn canonical(&self) -> String {
        canonical::write(&self.object, &self.odd, &[])
    }

    /// What a content hash is made of.
    pub(super) fn hashed_text(&self) -> String {
        canonical::write(&self.object, &self.odd, UNHASHED_MEMBERS)
    }

    /// What a signature of anything but an event covers.
    pub(super) fn signed_text(&self) -> String {
        canonical::write(&self.object, &self.odd, UNSIGNED_MEMBERS)
    }

    /// What a signature and the reference hash of an event cover.
    pub(super) fn redacted_signed_text(&self, rules: &RedactionRules) -> Result<String, PduError> {
        if !self.odd.is_empty() {
            return Ok(self.redacted(rules)?.signed_text());
        }
        RedactingSerializer::new()
            .rules(rules)
            .custom_redacted_root_fields(UNSIGNED_MEMBERS)
            .serialize(&self.without_bad_invite(rules))
            .map_err(|_| cannot_redact())
    }

    /// The object as redaction leaves it.
    pub(super) fn redacted(&self, rules: &RedactionRules) -> Result<Self, PduError> {
        let object = self.without_bad_invite(rules).into_owned();
        let object = redact(object, rules, None).map_err(|_| cannot_redact())?;
        // Redaction takes members away and moves none: what is left is where it was.
        Ok(Self { object, odd: self.odd.clone() })
    }

    /// Gives the canonical text of a number at the top level that is odd.
    pub(super) fn odd_member(&self, name: &str) -> Option<&str> {
        match self.odd.get(name) {
            Some(Odd::Number(canonical)) => Some(canonical),
            _ => None,
        }
    }

    /// From room version 11 redaction keeps `signed` of a `third_party_invite`. One that is no
    /// object has none: Synapse drops it, ruma keeps it whole, and the event ids differ.
    fn without_bad_invite(&self, rules: &RedactionRules) -> Cow<'_, CanonicalJsonObject> {
        let is_bad = rules.keep_room_member_third_party_invite_signed
            && string(&self.object, "type") == Some("m.room.member")
            && self
                .object
                .get("content")
                .and_then(|content| content.as_object()?.get("third_party_invite"))
                .is_some_and(|invite| !invite.is_object());
        if !is_bad {
            return Cow::Borrowed(&self.object);
        }
        let mut object = self.object.clone();
        if let Some(CanonicalJsonValue::Object(content)) = object.get_mut("content") {
            content.remove("third_party_invite");
        }
        Cow::Owned(object)
    }
}

/// Without the whitespace that JSON allows around a value.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let start = bytes.iter().position(|it| !is_space(it)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|it| !is_space(it)).map_or(start, |last| last + 1);
    bytes.get(start..end).unwrap_or_default()
}

/// A member that is a string.
pub(super) fn string<'o>(object: &'o CanonicalJsonObject, name: &str) -> Option<&'o str> {
    object.get(name).and_then(CanonicalJsonValue::as_str)
}

/// Says what a reader stumbled over. Asked for only when something is wrong.
///
/// `fault` is our own finding, if any; it counts only where the whole text is JSON, which serde
/// tells when it skips over it: then it looks neither into escapes nor at the size of numbers.
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
    // What is left that serde reads but does not accept.
    match error.to_string() {
        text if text.starts_with("number out of range") => BadJson::Overflow.into(),
        text if text.starts_with("recursion limit") => BadJson::TooDeep.into(),
        _ => BadJson::LoneSurrogate.into(),
    }
}

fn cannot_redact() -> PduError {
    PduError::format("type", "is missing or not a string")
}

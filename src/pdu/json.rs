//! The JSON of an event: a tree of what every room version allows, and the numbers that only old room
//! versions allow.

use std::borrow::Cow;

use super::{
    canonical::{self, Odd, OddMembers},
    error::PduError,
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    canonical_json::{RedactingSerializer, redact},
    room_version_rules::RedactionRules,
};

/// The members that a signature or a reference hash does not cover.
const UNSIGNED_MEMBERS: &[&str] = &["signatures", "unsigned"];
/// The members that a content hash does not cover.
const UNHASHED_MEMBERS: &[&str] = &["hashes", "signatures", "unsigned"];

/// A JSON object without its member `unsigned`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Json {
    /// The object. In place of an odd number it has 0.
    pub(super) object: CanonicalJsonObject,
    /// The odd numbers; empty from room version 6 on.
    pub(super) odd: OddMembers,
}

/// The result of reading an object.
pub(super) struct Parsed<T> {
    pub(super) value: T,
    /// Whether a member `unsigned` was skipped.
    pub(super) unsigned: bool,
}

impl Json {
    /// Writes the object as canonical JSON.
    pub(super) fn canonical(&self) -> String {
        canonical::write(&self.object, &self.odd, &[])
    }

    /// Writes the text that a content hash covers.
    pub(super) fn hashed_text(&self) -> String {
        canonical::write(&self.object, &self.odd, UNHASHED_MEMBERS)
    }

    /// Writes the text that a signature covers, for anything but an event.
    pub(super) fn signed_text(&self) -> String {
        canonical::write(&self.object, &self.odd, UNSIGNED_MEMBERS)
    }

    /// Writes the text that a signature and the reference hash of an event cover.
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

    /// Returns the object as redaction leaves it.
    pub(super) fn redacted(&self, rules: &RedactionRules) -> Result<Self, PduError> {
        let object = self.without_bad_invite(rules).into_owned();
        let object = redact(object, rules, None).map_err(|_| cannot_redact())?;
        // Redaction removes members and moves none, so odd numbers that remain keep their paths.
        Ok(Self { object, odd: self.odd.clone() })
    }

    /// The canonical text of a top-level member that is an odd number; `None` if it is not one.
    pub(super) fn odd_member(&self, name: &str) -> Option<&str> {
        match self.odd.get(name) {
            Some(Odd::Number(canonical)) => Some(canonical),
            _ => None,
        }
    }

    /// The object without a `third_party_invite` that is not an object. From room version 11 on,
    /// redaction keeps only `signed` of a `third_party_invite`. If it is not an object, Synapse drops
    /// it and ruma keeps it whole; the event ids would differ.
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

/// The value of a member that is a string; `None` if there is no such member.
pub(super) fn string<'o>(object: &'o CanonicalJsonObject, name: &str) -> Option<&'o str> {
    object.get(name).and_then(CanonicalJsonValue::as_str)
}

fn cannot_redact() -> PduError {
    PduError::format("type", "is missing or not a string")
}

//! Reads JSON that has exactly one canonical form, apart from whitespace and the order of members. Room
//! versions 6 and later demand it of events, and the gateway of signed requests. One pass, no
//! intermediate tree.

use std::{cell::Cell, collections::btree_map::Entry, fmt};

use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// How many levels of arrays and objects JSON may have, the outermost one included. Readers and
/// writers of JSON recurse into every level. Synapse's own limit is near 1,000; no event seen so far
/// has more than a dozen levels.
pub const MAX_JSON_LEVELS: usize = 100;

/// The reason why a text was refused. Its text never contains the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text is not JSON.
    #[error("not JSON, at line {line}, column {column}")]
    NotJson {
        /// The line of the fault, from 1; 0 if the bytes are not UTF-8.
        line: usize,
        /// The column of the fault in bytes, from 1; 0 if the bytes are not UTF-8.
        column: usize,
    },
    /// The text is JSON, and contains something that is not allowed.
    #[error("{0}")]
    Fault(JsonFault),
}

/// Something in JSON that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// A fraction, an exponent, `-0`, or an integer beyond ±(2^53 − 1).
    #[error("a number is not an integer within ±(2^53 − 1)")]
    Number,
    /// A number that no float can hold, such as `1e400`, or an integer of more than 4,300 digits.
    #[error("a number overflows")]
    Overflow,
    /// Two members of one object have the same name.
    #[error("an object has two members of the same name")]
    DuplicateMember,
    /// Half a surrogate pair, such as `\ud800` alone. It has no UTF-8 form.
    #[error("a string holds half a surrogate pair")]
    LoneSurrogate,
    /// More than [`MAX_JSON_LEVELS`] levels of arrays and objects.
    #[error("nested too deeply")]
    TooDeep,
}

impl JsonError {
    /// The reason why a reader failed on a text with an error of serde.
    ///
    /// `fault` is what the reader itself found, if anything. It counts only if the whole text is JSON:
    /// a reader stops at the first fault. To check that, serde skips over the text, and then it looks
    /// neither into escapes nor at the size of numbers.
    #[must_use]
    pub fn new(text: &str, error: &serde_json::Error, fault: Option<JsonFault>) -> Self {
        if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
            return Self::NotJson { line: error.line(), column: error.column() };
        }
        if let Some(fault) = fault {
            return Self::Fault(fault);
        }
        // The remaining faults are found by serde, which tells them apart by their texts only.
        Self::Fault(match error.to_string() {
            text if text.starts_with("number out of range") => JsonFault::Overflow,
            text if text.starts_with("recursion limit") => JsonFault::TooDeep,
            _ => JsonFault::LoneSurrogate,
        })
    }
}

/// A value that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct StrictJson {
    /// The value, without the ignored member.
    pub value: CanonicalJsonValue,
    /// Whether the outermost object has the ignored member.
    pub has_ignored: bool,
}

impl StrictJson {
    /// Reads a text that consists of one value, with whitespace around it or without. A member of the
    /// outermost object that is named `ignored` is skipped: it must be JSON, and nothing else is
    /// checked of it.
    ///
    /// # Errors
    /// When the text is not JSON, or contains a [`JsonFault`].
    pub fn read(text: &str, ignored: Option<&'static str>) -> Result<Self, JsonError> {
        let findings = Findings { ignored, fault: Cell::default(), has_ignored: Cell::default() };
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let read = StrictValue { level: 1, findings: &findings }
            .deserialize(&mut deserializer)
            .and_then(|value| deserializer.end().map(|()| value));
        match read {
            Ok(value) => Ok(Self { value, has_ignored: findings.has_ignored.get() }),
            Err(error) => Err(JsonError::new(text, &error, findings.fault.get())),
        }
    }
}

/// Reads bytes that consist of one value, with whitespace around it or without.
///
/// # Errors
/// When the bytes are not JSON in UTF-8, or contain a [`JsonFault`].
pub fn read_strict_json(bytes: &[u8]) -> Result<CanonicalJsonValue, JsonError> {
    let not_utf8 = |_| JsonError::NotJson { line: 0, column: 0 };
    let text = str::from_utf8(bytes).map_err(not_utf8)?;
    Ok(StrictJson::read(text, None)?.value)
}

/// The member to skip, and what serde's error type cannot carry.
struct Findings {
    ignored: Option<&'static str>,
    fault: Cell<Option<JsonFault>>,
    has_ignored: Cell<bool>,
}

impl Findings {
    fn refuse<E: Error>(&self, fault: JsonFault) -> E {
        self.fault.set(Some(fault));
        E::custom(fault)
    }
}

/// Reads a value on a level of nesting, from 1.
#[derive(Clone, Copy)]
struct StrictValue<'f> {
    level: usize,
    findings: &'f Findings,
}

impl StrictValue<'_> {
    /// The reader for the next level, inside an array or object of this one.
    fn inside<E: Error>(self) -> Result<Self, E> {
        if self.level > MAX_JSON_LEVELS {
            return Err(self.findings.refuse(JsonFault::TooDeep));
        }
        Ok(Self { level: self.level + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for StrictValue<'_> {
    type Value = CanonicalJsonValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictValue<'_> {
    type Value = CanonicalJsonValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        let int = Int::try_from(value).map_err(|_| self.findings.refuse(JsonFault::Number))?;
        Ok(CanonicalJsonValue::Integer(int))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        let int = Int::try_from(value).map_err(|_| self.findings.refuse(JsonFault::Number))?;
        Ok(CanonicalJsonValue::Integer(int))
    }

    /// Fractions, exponents, `-0` and all beyond 64 bits arrive here.
    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Err(self.findings.refuse(JsonFault::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let inside = self.inside()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inside)? {
            array.push(item);
        }
        Ok(CanonicalJsonValue::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let inside = self.inside()?;
        let mut object = CanonicalJsonObject::new();
        while let Some(name) = members.next_key::<String>()? {
            if self.level == 1 && self.findings.ignored == Some(name.as_str()) {
                if self.findings.has_ignored.replace(true) {
                    return Err(self.findings.refuse(JsonFault::DuplicateMember));
                }
                let _: IgnoredAny = members.next_value()?;
                continue;
            }
            match object.entry(name) {
                Entry::Vacant(free) => {
                    free.insert(members.next_value_seed(inside)?);
                }
                Entry::Occupied(_) => return Err(self.findings.refuse(JsonFault::DuplicateMember)),
            }
        }
        Ok(CanonicalJsonValue::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        serde_json::to_string(&read_strict_json(text.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn the_canonical_form_is_sorted_and_without_spaces() {
        assert_eq!(canonical(r#" {"b": [1, null], "a": "\u00e9\/\u0001"} "#), {
            "{\"a\":\"é/\\u0001\",\"b\":[1,null]}"
        });
        assert_eq!(canonical("9007199254740991"), "9007199254740991");
        assert_eq!(canonical("-9007199254740991"), "-9007199254740991");
    }

    #[test]
    fn json_without_a_canonical_form_is_refused() {
        let deep = "[".repeat(MAX_JSON_LEVELS + 1) + &"]".repeat(MAX_JSON_LEVELS + 1);
        for (text, fault) in [
            ("1.0", JsonFault::Number),
            ("1e3", JsonFault::Number),
            ("-0", JsonFault::Number),
            ("9007199254740992", JsonFault::Number),
            ("-9007199254740992", JsonFault::Number),
            ("99999999999999999999", JsonFault::Number),
            ("1e400", JsonFault::Overflow),
            (r#"{"a":1,"a":1}"#, JsonFault::DuplicateMember),
            (r#"{"a":1,"\u0061":2}"#, JsonFault::DuplicateMember),
            (r#"{"left out":1,"left out":1}"#, JsonFault::DuplicateMember),
            (r#"[{"b":{"a":[0.5]}}]"#, JsonFault::Number),
            (r#""\ud800""#, JsonFault::LoneSurrogate),
            (&deep, JsonFault::TooDeep),
        ] {
            let read = StrictJson::read(text, Some("left out"));
            assert_eq!(read, Err(JsonError::Fault(fault)), "{text}");
        }
        let allowed = "[".repeat(MAX_JSON_LEVELS) + &"]".repeat(MAX_JSON_LEVELS);
        assert_eq!(canonical(&allowed), allowed);
    }

    #[test]
    fn invalid_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "{}x",
            "NaN",
            "{'a':1}",
            "[1,]",
            "01",
            "nul",
            // A forbidden number comes first here, but the whole is invalid JSON.
            r#"{"a":1.5,"#,
        ] {
            let read = read_strict_json(text.as_bytes());
            assert!(matches!(read, Err(JsonError::NotJson { .. })), "{text}");
        }
        let not_utf8 = JsonError::NotJson { line: 0, column: 0 };
        assert_eq!(read_strict_json(b"\"\xff\""), Err(not_utf8));
    }

    #[test]
    fn an_ignored_member_is_only_ignored_outside() {
        let read = StrictJson::read(r#"{"a":{"left out":1},"left out":0.5}"#, Some("left out"));
        let StrictJson { value, has_ignored } = read.unwrap();
        assert!(has_ignored);
        assert_eq!(serde_json::to_string(&value).unwrap(), r#"{"a":{"left out":1}}"#);
    }
}

//! A JSON object that servers have signed, and the text that their signatures cover: the object
//! without `signatures` and `unsigned`, as Synapse writes it.
//!
//! The object is read as leniently as Synapse reads it: any number is allowed, and of members with
//! the same name the last one counts. This is not for events: their format depends on the version of
//! their room.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::{Number, Overflow, VerifyKey, signature, write_string};

/// The most levels of arrays and objects.
const MAX_LEVELS: usize = 100;

/// A JSON object whose members are not parsed yet.
#[derive(Clone, Debug)]
pub struct SignedObject<'t> {
    text: &'t str,
    members: BTreeMap<String, &'t RawValue>,
}

/// The reason why bytes are not such an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedObjectError {
    /// The bytes are not JSON, or the signed text has half a surrogate pair.
    #[error("not JSON, at line {line}, column {column}")]
    NotJson {
        /// The line of the fault, from 1; 0 if the bytes are not UTF-8.
        line: usize,
        /// The column of the fault in bytes, from 1; 0 if the bytes are not UTF-8.
        column: usize,
    },
    /// The JSON is not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// The JSON has more than 100 levels of arrays and objects.
    #[error("nested too deeply")]
    TooDeep,
    /// A number has no canonical form.
    #[error(transparent)]
    Overflow(#[from] Overflow),
}

impl<'t> SignedObject<'t> {
    /// Reads bytes: an object, with optional whitespace around it.
    ///
    /// # Errors
    /// The bytes are not a JSON object.
    pub fn parse(bytes: &'t [u8]) -> Result<Self, SignedObjectError> {
        let text =
            str::from_utf8(bytes).map_err(|_| SignedObjectError::NotJson { line: 0, column: 0 })?;
        Self::from_text(text)
    }

    /// Reads a text: an object, with optional whitespace around it.
    ///
    /// # Errors
    /// The text is not a JSON object.
    pub fn from_text(text: &'t str) -> Result<Self, SignedObjectError> {
        let text = text.trim_matches([' ', '\t', '\n', '\r']);
        let raw: &RawValue = read(text)?;
        if !raw.get().starts_with('{') {
            return Err(SignedObjectError::NotAnObject);
        }
        Ok(Self { text, members: read(text)? })
    }

    /// The text of the whole object, as it was received.
    #[must_use]
    pub fn text(&self) -> &'t str {
        self.text
    }

    /// The text of a member; `None` if there is no such member.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&'t RawValue> {
        self.members.get(name).copied()
    }

    /// The value of a member; `None` if it is not a string.
    #[must_use]
    pub fn string(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.member(name)?.get()).ok()
    }

    /// The texts of the members of a member; `None` if it is not an object.
    #[must_use]
    pub fn object(&self, name: &str) -> Option<BTreeMap<String, &'t RawValue>> {
        serde_json::from_str(self.member(name)?.get()).ok()
    }

    /// The value of a member that is a time, in milliseconds since 1970; `None` if it is not a number.
    /// A fraction is cut off, and a time before 1970 is read as 1970.
    #[must_use]
    pub fn time(&self, name: &str) -> Option<u64> {
        time(self.member(name)?)
    }

    /// The texts of all members, by their names.
    pub fn members(&self) -> impl Iterator<Item = (&str, &'t RawValue)> {
        self.members.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// The signatures of a server by the ids of its keys. Their values are not checked.
    #[must_use]
    pub fn signatures_of(&self, server: &str) -> BTreeMap<String, &'t RawValue> {
        let of_server = || {
            let all: BTreeMap<String, &RawValue> = self.object("signatures")?;
            serde_json::from_str(all.get(server)?.get()).ok()
        };
        of_server().unwrap_or_default()
    }

    /// Writes the text that signatures cover.
    ///
    /// # Errors
    /// A part of the object has no canonical form.
    pub fn signed_text(&self) -> Result<String, SignedObjectError> {
        let signed = |name: &str| !matches!(name, "signatures" | "unsigned");
        let members = self.members.iter().filter(|(name, _)| signed(name));
        let mut out = String::new();
        write_members(&mut out, members, 1)?;
        Ok(out)
    }
}

/// Whether `given` is a signature of a text, made with a key.
pub(crate) fn has_signed(key: &VerifyKey, signed_text: &str, given: &RawValue) -> bool {
    let given: Option<String> = serde_json::from_str(given.get()).ok();
    let given = given.and_then(|text| signature(&text));
    given.is_some_and(|it| key.verifies(signed_text.as_bytes(), &it))
}

/// Reads a time as [`SignedObject::time`] does.
pub(crate) fn time(raw: &RawValue) -> Option<u64> {
    let text = raw.get();
    if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return None;
    }
    let whole = |digits: &str| digits.parse::<u64>().unwrap_or(u64::MAX);
    match Number::read(text).ok()? {
        _ if text.starts_with('-') => Some(0),
        Number::Plain(int) => u64::try_from(i64::from(int)).ok(),
        Number::Odd(odd) if odd.contains(['.', 'e']) => {
            let value: f64 = odd.parse().ok()?;
            Some(whole(&format!("{:.0}", value.trunc())))
        }
        Number::Odd(odd) => Some(whole(&odd)),
    }
}

fn write_value(out: &mut String, raw: &RawValue, level: usize) -> Result<(), SignedObjectError> {
    let text = raw.get();
    if level > MAX_LEVELS && text.starts_with(['{', '[']) {
        return Err(SignedObjectError::TooDeep);
    }
    match text.as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<String, &RawValue> = read(text)?;
            write_members(out, members.iter(), level)?;
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = read(text)?;
            out.push('[');
            for (nth, item) in items.into_iter().enumerate() {
                comma(out, nth);
                write_value(out, item, level + 1)?;
            }
            out.push(']');
        }
        Some(b'"') => write_string(out, &read::<String>(text)?),
        Some(b't' | b'f' | b'n') => out.push_str(text),
        _ => match Number::read(text)? {
            Number::Plain(int) => out.push_str(&int.to_string()),
            Number::Odd(odd) => out.push_str(&odd),
        },
    }
    Ok(())
}

fn write_members<'m, 't: 'm>(
    out: &mut String,
    members: impl Iterator<Item = (&'m String, &'m &'t RawValue)>,
    level: usize,
) -> Result<(), SignedObjectError> {
    out.push('{');
    for (nth, (name, value)) in members.enumerate() {
        comma(out, nth);
        write_string(out, name);
        out.push(':');
        write_value(out, value, level + 1)?;
    }
    out.push('}');
    Ok(())
}

fn comma(out: &mut String, nth: usize) {
    if nth > 0 {
        out.push(',');
    }
}

fn read<'t, T: serde::Deserialize<'t>>(text: &'t str) -> Result<T, SignedObjectError> {
    serde_json::from_str(text)
        .map_err(|error| SignedObjectError::NotJson { line: error.line(), column: error.column() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed_text(text: &str) -> Result<String, SignedObjectError> {
        SignedObject::parse(text.as_bytes())?.signed_text()
    }

    #[test]
    fn it_is_what_synapse_writes() {
        for (text, signed) in [
            (r#" {"b": [1, null, true], "a": "\u00e9\/"} "#, r#"{"a":"é/","b":[1,null,true]}"#),
            // On the right: what Python's json module writes.
            (r#"{"a":1.50,"b":1e2,"c":-0,"d":-0.0}"#, r#"{"a":1.5,"b":100.0,"c":0,"d":-0.0}"#),
            (r#"{"a":99999999999999999999}"#, r#"{"a":99999999999999999999}"#),
            (r#"{"a":1,"\u0061":{"z":1,"y":[{}]}}"#, r#"{"a":{"y":[{}],"z":1}}"#),
            (r#"{"signatures":1,"unsigned":{"x":1e999,"y":"\ud800"},"a":{"unsigned":1}}"#, {
                r#"{"a":{"unsigned":1}}"#
            }),
        ] {
            assert_eq!(signed_text(text).as_deref(), Ok(signed), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_written_again_is_none() {
        assert_eq!(signed_text("[]"), Err(SignedObjectError::NotAnObject));
        assert!(matches!(signed_text("{"), Err(SignedObjectError::NotJson { .. })));
        assert!(matches!(signed_text(r#"{"a":"\ud800"}"#), Err(SignedObjectError::NotJson { .. })));
        assert_eq!(signed_text(r#"{"a":1e999}"#), Err(SignedObjectError::Overflow(Overflow)));
        let nested = |levels: usize| {
            signed_text(&format!(r#"{{"a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels)))
        };
        assert!(nested(99).is_ok());
        assert_eq!(nested(100), Err(SignedObjectError::TooDeep));
    }

    #[test]
    fn times() {
        let time = |text: &str| {
            let text = format!(r#"{{"t":{text}}}"#);
            SignedObject::parse(text.as_bytes()).unwrap().time("t")
        };
        for (text, expected) in [
            ("0", Some(0)),
            ("1700000000123", Some(1_700_000_000_123)),
            ("1700000000123.9", Some(1_700_000_000_123)),
            ("1.7e12", Some(1_700_000_000_000)),
            ("9223372036854775807", Some(i64::MAX.unsigned_abs())),
            ("99999999999999999999", Some(u64::MAX)),
            ("1e300", Some(u64::MAX)),
            ("-1", Some(0)),
            ("-1.5", Some(0)),
            ("\"1\"", None),
            ("true", None),
            ("null", None),
            ("[1]", None),
            ("1e999", None),
        ] {
            assert_eq!(time(text), expected, "{text}");
        }
    }
}

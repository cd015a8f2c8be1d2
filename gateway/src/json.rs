//! Parses the JSON of requests strictly: accepted JSON has exactly one canonical form, so the bytes that
//! are verified are those that were signed.
//!
//! Besides invalid JSON, this refuses numbers that are not integers within ±(2^53 − 1), and objects with
//! two members of the same name.

use std::{fmt, str};

use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::error::Category;

/// Why bytes were refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    /// Invalid JSON, or more than 127 levels, or half of a surrogate pair.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// JSON, but without a canonical form.
    #[error("not canonical JSON: {0}")]
    NotCanonical(String),
}

/// Parses one JSON value, which may be surrounded by white space.
pub(crate) fn parse(bytes: &[u8]) -> Result<CanonicalJsonValue, JsonError> {
    let text = str::from_utf8(bytes).map_err(|error| JsonError::NotJson(error.to_string()))?;
    let error = match serde_json::from_str::<Strict>(text) {
        Ok(Strict(value)) => return Ok(value),
        Err(error) => error,
    };
    // The first fault may be a forbidden number, while the text is invalid JSON further on.
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    Err(match error.classify() {
        Category::Data if is_json => JsonError::NotCanonical(error.to_string()),
        Category::Data | Category::Syntax | Category::Eof | Category::Io => {
            JsonError::NotJson(error.to_string())
        }
    })
}

struct Strict(CanonicalJsonValue);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = CanonicalJsonValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("canonical JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Int::try_from(value).map(CanonicalJsonValue::Integer).map_err(|_| out_of_range())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Int::try_from(value).map(CanonicalJsonValue::Integer).map_err(|_| out_of_range())
    }

    fn visit_f64<E: Error>(self, _value: f64) -> Result<Self::Value, E> {
        Err(out_of_range())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(CanonicalJsonValue::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut object = CanonicalJsonObject::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a member is named twice"));
            }
        }
        Ok(CanonicalJsonValue::Object(object))
    }
}

fn out_of_range<E: Error>() -> E {
    E::custom("a number is not an integer within ±(2^53 - 1)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        serde_json::to_string(&parse(text.as_bytes()).unwrap()).unwrap()
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
        for text in [
            "1.0",
            "1e3",
            "-0",
            "9007199254740992",
            "-9007199254740992",
            "99999999999999999999",
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"[{"b":{"a":[0.5]}}]"#,
        ] {
            assert!(matches!(parse(text.as_bytes()), Err(JsonError::NotCanonical(_))), "{text}");
        }
    }

    #[test]
    fn invalid_json_is_refused() {
        let deep = "[".repeat(200) + &"]".repeat(200);
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
            r#""\ud800""#,
            // A forbidden number comes first here, but the whole is invalid JSON.
            r#"{"a":1.5,"#,
            &deep,
        ] {
            assert!(matches!(parse(text.as_bytes()), Err(JsonError::NotJson(_))), "{text}");
        }
        assert!(matches!(parse(b"\"\xff\""), Err(JsonError::NotJson(_))));
    }
}

//! Reads JSON as room versions 1 to 5 allow it: any number, and of members with the same name the last
//! one counts. Used only when the strict reader fails, so it may be slow.

use std::collections::BTreeMap;

use backscroll_matrix::{JsonError, JsonFault, MAX_JSON_LEVELS, Number};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int};
use serde_json::value::RawValue;

use super::{
    canonical::{Odd, OddMembers},
    error::PduError,
    json::{Json, Parsed},
};

/// Reads an object. Its member `unsigned` is not part of the event, so its value is not checked.
pub(super) fn parse(text: &str) -> Result<Parsed<Json>, PduError> {
    let mut members: BTreeMap<String, &RawValue> = match read(text) {
        Ok(members) => members,
        Err(error) if text.starts_with('{') => return Err(error),
        Err(_) => {
            let _: &RawValue = read(text)?;
            return Err(PduError::format("event", "is not an object"));
        }
    };
    let unsigned = members.remove("unsigned").is_some();
    let (object, odd) = read_members(members, 1)?;
    Ok(Parsed { value: Json { object, odd }, unsigned })
}

/// Reads a value on a level of nesting, from 1. Every level is scanned separately, so a text is
/// scanned once for each level that it is inside of.
fn read_value(raw: &RawValue, level: usize) -> Result<(CanonicalJsonValue, Option<Odd>), PduError> {
    let text = raw.get();
    if level > MAX_JSON_LEVELS && text.starts_with(['{', '[']) {
        return Err(JsonFault::TooDeep.into());
    }
    let plain = match text.as_bytes().first() {
        Some(b'{') => {
            let (members, odd) = read_members(read(text)?, level)?;
            let odd = (!odd.is_empty()).then_some(Odd::Members(odd));
            return Ok((CanonicalJsonValue::Object(members), odd));
        }
        Some(b'[') => {
            let (items, odd) = read_items(read(text)?, level)?;
            let odd = (!odd.is_empty()).then_some(Odd::Items(odd));
            return Ok((CanonicalJsonValue::Array(items), odd));
        }
        Some(b'"') => CanonicalJsonValue::String(read(text)?),
        Some(b't') => CanonicalJsonValue::Bool(true),
        Some(b'f') => CanonicalJsonValue::Bool(false),
        Some(b'n') => CanonicalJsonValue::Null,
        _ => match Number::read(text)? {
            Number::Plain(int) => CanonicalJsonValue::Integer(int),
            Number::Odd(canonical) => {
                let placeholder = CanonicalJsonValue::Integer(Int::default());
                return Ok((placeholder, Some(Odd::Number(canonical))));
            }
        },
    };
    Ok((plain, None))
}

fn read_members(
    members: BTreeMap<String, &RawValue>,
    level: usize,
) -> Result<(CanonicalJsonObject, OddMembers), PduError> {
    let mut object = CanonicalJsonObject::new();
    let mut odd = OddMembers::new();
    for (name, raw) in members {
        let (value, inside) = read_value(raw, level + 1)?;
        if let Some(inside) = inside {
            odd.insert(name.clone(), inside);
        }
        object.insert(name, value);
    }
    Ok((object, odd))
}

fn read_items(
    items: Vec<&RawValue>,
    level: usize,
) -> Result<(Vec<CanonicalJsonValue>, BTreeMap<usize, Odd>), PduError> {
    let mut array = Vec::with_capacity(items.len());
    let mut odd = BTreeMap::new();
    for (index, raw) in items.into_iter().enumerate() {
        let (value, inside) = read_value(raw, level + 1)?;
        if let Some(inside) = inside {
            odd.insert(index, inside);
        }
        array.push(value);
    }
    Ok((array, odd))
}

fn read<'t, T: serde::Deserialize<'t>>(text: &'t str) -> Result<T, PduError> {
    serde_json::from_str(text).map_err(|error| JsonError::new(text, &error, None).into())
}

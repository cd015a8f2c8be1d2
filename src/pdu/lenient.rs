//! Reads JSON as rooms of versions 1 to 5 have it: any number, and of members with the same name
//! the last. Only asked when the strict reader refuses, so it may be slow.

use std::collections::BTreeMap;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int};
use serde_json::value::RawValue;

use super::{
    canonical::{OddNumbers, Step},
    error::{BadJson, PduError},
    json::{Json, MAX_LEVELS, Parsed, syntax_error},
    number::Number,
};

/// Reads an object. Its member `unsigned` is no part of an event, so it is passed over unread.
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
    let mut reader = Reader { path: Vec::new(), odd: OddNumbers::default() };
    let object = reader.members(members)?;
    Ok(Parsed { value: Json { object, odd: reader.odd }, unsigned })
}

struct Reader {
    /// Where in the event the reader is; as long as the nesting is deep.
    path: Vec<Step>,
    odd: OddNumbers,
}

impl Reader {
    /// Reads one level after the other, so a text is scanned once for every level it is inside.
    fn value(&mut self, raw: &RawValue) -> Result<CanonicalJsonValue, PduError> {
        let text = raw.get();
        if self.path.len() >= MAX_LEVELS && text.starts_with(['{', '[']) {
            return Err(BadJson::TooDeep.into());
        }
        match text.as_bytes().first() {
            Some(b'{') => Ok(CanonicalJsonValue::Object(self.members(read(text)?)?)),
            Some(b'[') => {
                let items: Vec<&RawValue> = read(text)?;
                let mut array = Vec::with_capacity(items.len());
                for (index, item) in items.into_iter().enumerate() {
                    array.push(self.at(Step::Item(index), item)?);
                }
                Ok(CanonicalJsonValue::Array(array))
            }
            Some(b'"') => Ok(CanonicalJsonValue::String(read(text)?)),
            Some(b't') => Ok(CanonicalJsonValue::Bool(true)),
            Some(b'f') => Ok(CanonicalJsonValue::Bool(false)),
            Some(b'n') => Ok(CanonicalJsonValue::Null),
            _ => match Number::read(text)? {
                Number::Plain(int) => Ok(CanonicalJsonValue::Integer(int)),
                Number::Odd(canonical) => {
                    self.odd.insert(self.path.clone(), canonical);
                    Ok(CanonicalJsonValue::Integer(Int::default()))
                }
            },
        }
    }

    fn members(
        &mut self,
        members: BTreeMap<String, &RawValue>,
    ) -> Result<CanonicalJsonObject, PduError> {
        let mut object = CanonicalJsonObject::new();
        for (name, raw) in members {
            let value = self.at(Step::Member(name.clone()), raw)?;
            object.insert(name, value);
        }
        Ok(object)
    }

    fn at(&mut self, step: Step, raw: &RawValue) -> Result<CanonicalJsonValue, PduError> {
        self.path.push(step);
        let value = self.value(raw);
        self.path.pop();
        value
    }
}

fn read<'t, T: serde::Deserialize<'t>>(text: &'t str) -> Result<T, PduError> {
    serde_json::from_str(text).map_err(|error| syntax_error(text, &error, None))
}

//! Reads JSON as room versions 6 and later demand it. One pass, no intermediate tree.

use std::{cell::Cell, collections::btree_map::Entry, fmt};

use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    error::{BadJson, PduError, syntax_error},
    json::{MAX_LEVELS, Parsed},
};

/// Reads an object. Its member `unsigned` is not part of the event, so its value is not checked.
pub(super) fn parse(text: &str) -> Result<Parsed<CanonicalJsonObject>, PduError> {
    let seen = Findings::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = StrictValue { level: 1, seen: &seen }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    match (read, seen.fault.get()) {
        (Ok(CanonicalJsonValue::Object(value)), _) => {
            Ok(Parsed { value, unsigned: seen.unsigned.get() })
        }
        (Ok(_), _) => Err(PduError::format("event", "is not an object")),
        // The reader stops at a fault that it finds itself; what follows may not even be JSON.
        (Err(error), fault) => Err(syntax_error(text, &error, fault)),
    }
}

/// Findings of the reader that serde's error type cannot carry.
#[derive(Default)]
struct Findings {
    fault: Cell<Option<BadJson>>,
    unsigned: Cell<bool>,
}

impl Findings {
    fn refuse<E: Error>(&self, fault: BadJson) -> E {
        self.fault.set(Some(fault));
        E::custom(fault)
    }
}

/// Reads a value on a level of nesting, from 1.
#[derive(Clone, Copy)]
struct StrictValue<'s> {
    level: usize,
    seen: &'s Findings,
}

impl StrictValue<'_> {
    /// The reader for the next level, inside an array or object of this one.
    fn inside<E: Error>(self) -> Result<Self, E> {
        if self.level > MAX_LEVELS {
            return Err(self.seen.refuse(BadJson::TooDeep));
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
        let int = Int::try_from(value).map_err(|_| self.seen.refuse(BadJson::Number))?;
        Ok(CanonicalJsonValue::Integer(int))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        let int = Int::try_from(value).map_err(|_| self.seen.refuse(BadJson::Number))?;
        Ok(CanonicalJsonValue::Integer(int))
    }

    /// Fractions, exponents, `-0` and all beyond 64 bits arrive here.
    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Err(self.seen.refuse(BadJson::Number))
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
            if self.level == 1 && name == "unsigned" {
                if self.seen.unsigned.replace(true) {
                    return Err(self.seen.refuse(BadJson::DuplicateMember));
                }
                let _: IgnoredAny = members.next_value()?;
                continue;
            }
            match object.entry(name) {
                Entry::Vacant(free) => {
                    free.insert(members.next_value_seed(inside)?);
                }
                Entry::Occupied(_) => return Err(self.seen.refuse(BadJson::DuplicateMember)),
            }
        }
        Ok(CanonicalJsonValue::Object(object))
    }
}

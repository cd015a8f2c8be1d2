//! Finds members in a JSON text, and removes one without changing any other byte.

use std::{collections::BTreeMap, fmt};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The texts of an object's members, by their names; of members with the same name, the last one.
/// Members whose names are not Unicode are left out. `None` if the text is not an object.
#[must_use]
pub fn members(text: &str) -> Option<BTreeMap<String, &RawValue>> {
    let RawMembers(members) = serde_json::from_str(text).ok()?;
    let named =
        |(name, value): (&RawValue, _)| Some((serde_json::from_str(name.get()).ok()?, value));
    Some(members.into_iter().filter_map(named).collect())
}

/// Removes all top-level members of a name from the text of an object, even if the name is escaped.
/// `None` if the text is not an object.
#[must_use]
pub fn cut_member(text: &str, name: &str) -> Option<String> {
    let RawMembers(members) = serde_json::from_str(text).ok()?;
    let spans = members
        .into_iter()
        .map(|(key, value)| {
            let start = offset(text, key.get())?;
            let end = offset(text, value.get())?.checked_add(value.get().len())?;
            let is_cut = serde_json::from_str::<String>(key.get()).is_ok_and(|it| it == name);
            Some(Span { start, end, is_cut })
        })
        .collect::<Option<Vec<_>>>()?;
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else {
        return Some(text.to_owned());
    };
    let mut kept = text.get(..first.start)?.to_owned();
    let mut is_empty = true;
    let mut previous_end = first.start;
    for span in &spans {
        if !span.is_cut {
            // A member is kept along with the comma and the whitespace before it.
            let from = if is_empty { span.start } else { previous_end };
            kept.push_str(text.get(from..span.end)?);
            is_empty = false;
        }
        previous_end = span.end;
    }
    kept.push_str(text.get(last.end..)?);
    Some(kept)
}

/// The position of a member in a text, from the first byte of its name to the last of its value.
struct Span {
    start: usize,
    end: usize,
    is_cut: bool,
}

/// The offset of `part` in `text`, which it is borrowed from.
fn offset(text: &str, part: &str) -> Option<usize> {
    part.as_ptr().addr().checked_sub(text.as_ptr().addr())
}

/// The texts of an object's members, in their order; the names are still in quotes.
struct RawMembers<'t>(Vec<(&'t RawValue, &'t RawValue)>);

impl<'de> Deserialize<'de> for RawMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = RawMembers<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(RawMembers(members))
    }
}

#[cfg(test)]
mod tests {
    use super::cut_member;

    #[test]
    fn only_the_top_level_member_is_cut() {
        for (text, cut) in [
            ("{}", "{}"),
            ("{ }", "{ }"),
            (r#"{"a":1}"#, r#"{"a":1}"#),
            (r#"{"unsigned":1}"#, "{}"),
            (r#"{ "unsigned" : {"a":[1,{}]} }"#, "{  }"),
            (r#"{"unsigned":{},"a":1}"#, r#"{"a":1}"#),
            (r#"{"a":1,"unsigned":{}}"#, r#"{"a":1}"#),
            (r#"{"a":1, "unsigned":{} , "b" : 2 }"#, r#"{"a":1 , "b" : 2 }"#),
            (r#"{"\u0075nsigned":0,"a":1}"#, r#"{"a":1}"#),
            (r#"{"unsigned":0,"a":1,"unsigned":2}"#, r#"{"a":1}"#),
            (r#"{"unsigned":0,"unsigned":2}"#, "{}"),
            (r#"{"a":{"unsigned":1}}"#, r#"{"a":{"unsigned":1}}"#),
            (
                r#"{"a":"\"unsigned\":1","b":"unsigned"}"#,
                r#"{"a":"\"unsigned\":1","b":"unsigned"}"#,
            ),
            (r#"{"a":"}","unsigned":"{\"","b":1e400}"#, r#"{"a":"}","b":1e400}"#),
        ] {
            assert_eq!(cut_member(text, "unsigned").as_deref(), Some(cut), "{text}");
        }
        assert_eq!(cut_member("[]", "unsigned"), None);
    }
}

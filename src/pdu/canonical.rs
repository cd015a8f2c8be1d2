//! Writes canonical JSON: members in order of their names, no optional characters. Odd numbers are
//! written as Python writes them.

use std::collections::BTreeMap;

use backscroll_matrix::write_string;
use ruma::{CanonicalJsonObject, CanonicalJsonValue};

/// Odd numbers: those inside a value for which canonical JSON has no form, as texts.
///
/// This is a tree with the shape of the value, reduced to the branches that lead to an odd number. A
/// list of paths would repeat a long name for every number behind it, and grow with the square of
/// the event's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Odd {
    /// The value is an odd number; its text.
    Number(String),
    /// The value is an array with odd numbers inside of some items.
    Items(BTreeMap<usize, Odd>),
    /// The value is an object with odd numbers inside of some members.
    Members(OddMembers),
}

/// The odd numbers inside an object, by the names of its members.
pub(super) type OddMembers = BTreeMap<String, Odd>;

/// Writes `object` as canonical JSON, without some of its top-level members.
pub(super) fn write(object: &CanonicalJsonObject, odd: &OddMembers, without: &[&str]) -> String {
    let mut writer = CanonicalWriter { out: String::new() };
    let members = object.iter().filter(|(name, _)| !without.contains(&name.as_str()));
    writer.members(members, Some(odd));
    writer.out
}

struct CanonicalWriter {
    out: String,
}

impl CanonicalWriter {
    fn value(&mut self, value: &CanonicalJsonValue, odd: Option<&Odd>) {
        match value {
            CanonicalJsonValue::Null => self.out.push_str("null"),
            CanonicalJsonValue::Bool(true) => self.out.push_str("true"),
            CanonicalJsonValue::Bool(false) => self.out.push_str("false"),
            CanonicalJsonValue::Integer(int) => match odd {
                Some(Odd::Number(canonical)) => self.out.push_str(canonical),
                _ => self.out.push_str(&int.to_string()),
            },
            CanonicalJsonValue::String(text) => write_string(&mut self.out, text),
            CanonicalJsonValue::Array(items) => self.items(items, odd),
            CanonicalJsonValue::Object(members) => {
                let odd = match odd {
                    Some(Odd::Members(odd)) => Some(odd),
                    _ => None,
                };
                self.members(members.iter(), odd);
            }
        }
    }

    fn items(&mut self, items: &[CanonicalJsonValue], odd: Option<&Odd>) {
        let odd = match odd {
            Some(Odd::Items(odd)) => Some(odd),
            _ => None,
        };
        self.out.push('[');
        for (index, item) in items.iter().enumerate() {
            self.comma(index);
            self.value(item, odd.and_then(|odd| odd.get(&index)));
        }
        self.out.push(']');
    }

    fn members<'m>(
        &mut self,
        members: impl Iterator<Item = (&'m String, &'m CanonicalJsonValue)>,
        odd: Option<&OddMembers>,
    ) {
        self.out.push('{');
        for (index, (name, value)) in members.enumerate() {
            self.comma(index);
            write_string(&mut self.out, name);
            self.out.push(':');
            self.value(value, odd.and_then(|odd| odd.get(name)));
        }
        self.out.push('}');
    }

    fn comma(&mut self, index: usize) {
        if index > 0 {
            self.out.push(',');
        }
    }
}

//! Writes canonical JSON: names in order, nothing optional, odd numbers as Python writes them.

use std::collections::BTreeMap;

use ruma::{CanonicalJsonObject, CanonicalJsonValue};

/// One step on the way from the event to a value inside it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Member(String),
    Item(usize),
}

/// The canonical texts of the numbers that canonical JSON has no form for, by where they stand.
pub(super) type OddNumbers = BTreeMap<Vec<Step>, String>;

/// The canonical text of `object`, without the top-level members named.
pub(super) fn write(object: &CanonicalJsonObject, odd: &OddNumbers, without: &[&str]) -> String {
    let mut writer = Writer { odd, path: Vec::new(), out: String::new() };
    writer.members(object.iter().filter(|(name, _)| !without.contains(&name.as_str())));
    writer.out
}

struct Writer<'o> {
    odd: &'o OddNumbers,
    /// Where the writer is; kept only where there is an odd number to look for.
    path: Vec<Step>,
    out: String,
}

impl Writer<'_> {
    fn value(&mut self, value: &CanonicalJsonValue) {
        match value {
            CanonicalJsonValue::Null => self.out.push_str("null"),
            CanonicalJsonValue::Bool(true) => self.out.push_str("true"),
            CanonicalJsonValue::Bool(false) => self.out.push_str("false"),
            CanonicalJsonValue::Integer(int) => match self.odd.get(&self.path) {
                Some(canonical) => self.out.push_str(canonical),
                None => self.out.push_str(&int.to_string()),
            },
            CanonicalJsonValue::String(text) => self.string(text),
            CanonicalJsonValue::Array(items) => {
                self.out.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.comma(index);
                    self.at(|| Step::Item(index), item);
                }
                self.out.push(']');
            }
            CanonicalJsonValue::Object(members) => self.members(members.iter()),
        }
    }

    fn members<'m>(&mut self, members: impl Iterator<Item = (&'m String, &'m CanonicalJsonValue)>) {
        self.out.push('{');
        for (index, (name, value)) in members.enumerate() {
            self.comma(index);
            self.string(name);
            self.out.push(':');
            self.at(|| Step::Member(name.clone()), value);
        }
        self.out.push('}');
    }

    fn at(&mut self, step: impl FnOnce() -> Step, value: &CanonicalJsonValue) {
        if self.odd.is_empty() {
            return self.value(value);
        }
        self.path.push(step());
        self.value(value);
        self.path.pop();
    }

    fn comma(&mut self, index: usize) {
        if index > 0 {
            self.out.push(',');
        }
    }

    /// Escapes what JSON makes one escape, in the shortest way, and nothing else.
    fn string(&mut self, text: &str) {
        self.out.push('"');
        for piece in text.split_inclusive(is_escaped) {
            // Only the last symbol of a piece may be one to escape.
            let plain = piece.strip_suffix(is_escaped).unwrap_or(piece);
            self.out.push_str(plain);
            if plain.len() < piece.len() {
                piece.chars().next_back().into_iter().for_each(|symbol| self.escape(symbol));
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, symbol: char) {
        match symbol {
            '"' => self.out.push_str("\\\""),
            '\\' => self.out.push_str("\\\\"),
            '\u{8}' => self.out.push_str("\\b"),
            '\t' => self.out.push_str("\\t"),
            '\n' => self.out.push_str("\\n"),
            '\u{c}' => self.out.push_str("\\f"),
            '\r' => self.out.push_str("\\r"),
            _ => self.out.push_str(&format!("\\u{:04x}", u32::from(symbol))),
        }
    }
}

fn is_escaped(symbol: char) -> bool {
    matches!(symbol, '"' | '\\' | '\0'..='\u{1f}')
}

//! A room's event graph as a picture for people: [`svg()`] draws it, [`dot()`] says it in Graphviz's
//! language. Pure, and the same events always give the same text.

mod dot;
mod lanes;
mod select;
mod svg;

use std::collections::BTreeSet;

pub use self::{dot::dot, select::near, svg::svg};

/// Most events of a picture; what is more cannot be read by people.
pub const MAX_EVENTS: usize = 500;
/// Most missing predecessors that get a place of their own.
const MAX_GAPS: usize = 200;

/// What is to be drawn.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// The room.
    pub room_id: String,
    /// Its version.
    pub room_version: String,
    /// How many events of it are held, in the picture or not.
    pub held: u64,
    /// The events of the picture, at most [`MAX_EVENTS`].
    pub events: Vec<Event>,
    /// Ids that are referenced but not placed in the graph. Other predecessors that are not in the
    /// picture lie beyond its edge.
    pub missing: BTreeSet<String>,
    /// The event that the picture is about, if it is about one.
    pub around: Option<String>,
}

/// An event, without its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its id.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// Who sent it.
    pub sender: String,
    /// Present when it is a state event.
    pub state_key: Option<String>,
    /// The depth that it claims.
    pub depth: i64,
    /// Its place in the order of arrival.
    pub arrival: i64,
    /// What it references.
    pub prev_events: Vec<String>,
    /// What is special about it.
    pub marks: Marks,
}

/// What is special about an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Nothing accepted follows it yet.
    pub extremity: bool,
    /// A valid redaction of it is held.
    pub redacted: bool,
    /// It failed the authorisation rules.
    pub rejected: bool,
    /// It failed them against the current state only.
    pub soft_failed: bool,
    /// It is held, but not placed in the graph.
    pub outlier: bool,
    /// It breaks the format of its room version.
    pub unreadable: bool,
}

impl Marks {
    /// In words.
    fn words(self) -> impl Iterator<Item = &'static str> {
        let Self { extremity, redacted, rejected, soft_failed, outlier, unreadable } = self;
        [
            (extremity, "extremity"),
            (redacted, "redacted"),
            (rejected, "rejected"),
            (soft_failed, "soft-failed"),
            (outlier, "outlier"),
            (unreadable, "unreadable"),
        ]
        .into_iter()
        .filter_map(|(is, word)| is.then_some(word))
    }
}

/// The beginning of an id, which tells it from its neighbours.
fn short(event_id: &str) -> String {
    clipped(event_id, 9)
}

/// At most so many characters. What could not be seen, or would turn the text around, is replaced.
fn clipped(text: &str, most: usize) -> String {
    let invisible = |it: char| {
        it.is_control()
            || matches!(it, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            || matches!(it, '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    let seen = |it: char| if invisible(it) { '\u{fffd}' } else { it };
    if text.chars().nth(most).is_none() {
        return text.chars().map(seen).collect();
    }
    text.chars().take(most - 1).map(seen).chain(['…']).collect()
}

#[cfg(test)]
mod tests;

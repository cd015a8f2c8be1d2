//! Pictures of a room's event graph: [`svg()`] draws one, [`dot()`] describes it in the language of
//! Graphviz. This module is pure, and the same events always give the same text.

mod dot;
mod lanes;
mod select;
mod svg;

use std::collections::BTreeSet;

pub use self::{dot::dot, select::near, svg::svg};

/// The most events of a picture; larger ones are not readable.
pub const MAX_EVENTS: usize = 500;
/// The most missing predecessors that are drawn.
const MAX_GAPS: usize = 200;

/// The content of a picture.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// The id of the room.
    pub room_id: String,
    /// The version of the room.
    pub room_version: String,
    /// The number of events that the store holds of the room.
    pub held: u64,
    /// The events of the picture, at most [`MAX_EVENTS`].
    pub events: Vec<DrawnEvent>,
    /// Ids of events that are referenced, but not placed in the graph. They are drawn as gaps; other
    /// predecessors that are not in the picture are only hinted at.
    pub missing: BTreeSet<String>,
    /// The id of the event that is highlighted; `None` for none.
    pub around: Option<String>,
}

/// An event of a picture, without its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrawnEvent {
    /// The id of the event.
    pub event_id: String,
    /// The type of the event.
    pub event_type: String,
    /// The user who sent it.
    pub sender: String,
    /// The state key; `None` if it is no state event.
    pub state_key: Option<String>,
    /// The depth in the event.
    pub depth: i64,
    /// Its position in the order of arrival.
    pub arrival: i64,
    /// The ids of its predecessors.
    pub prev_events: Vec<String>,
    /// The marks that the event is drawn with.
    pub marks: Marks,
}

/// The facts about an event that a picture shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// It is a forward extremity: no accepted event follows it.
    pub extremity: bool,
    /// A redaction of it takes effect.
    pub redacted: bool,
    /// It failed the authorisation rules.
    pub rejected: bool,
    /// It failed the authorisation rules against the current state only.
    pub soft_failed: bool,
    /// It is stored without a place in the graph.
    pub outlier: bool,
    /// It breaks the format of its room version.
    pub unreadable: bool,
}

impl Marks {
    /// The words for the marks that are set.
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

/// The beginning of an id, which is enough to distinguish it from its neighbours.
fn short(event_id: &str) -> String {
    clipped(event_id, 9)
}

/// Cuts a text to `most` characters. Characters that are invisible, or that change the direction of
/// the text, are replaced.
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

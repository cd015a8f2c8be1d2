//! Walks through the event graph of one room.
//!
//! Pure and deterministic: the caller looks events up and collects the answer, in two closures. A
//! walk looks up at most as many events as its budget says, and each of them once. It ends when
//! the answer has as many events as asked for, or has no space for the next one. Events that the
//! caller does not know (not held, of another room, outliers) are not walked through. The depth is
//! a claim of the sender: it orders an answer and proves nothing.

mod before;
mod followers;
mod order;
mod walk_back;
mod walk_missing;
mod walker;

pub use before::Outline;
pub use followers::Followers;
pub use walk_back::walk_back;
pub use walk_missing::{Between, walk_missing};

/// The position of an event among others: by depth, then by order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The depth that the sender claims.
    pub depth: i64,
    /// The position in the homeserver's order of arrival.
    pub arrival: i64,
}

/// The facts about an event that a walk needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkNode<Id, Event> {
    /// Orders the walk and its answer.
    pub position: Position,
    /// Whether it may be part of an answer. A rejected event may not, but is walked through.
    pub servable: bool,
    /// The predecessors that are held, in the order of the event.
    pub prev_events: Vec<Id>,
    /// Whether it has predecessors that are not held.
    pub has_gap: bool,
    /// Whatever else the caller knows. It gets this back when the event is added to the answer.
    pub event: Event,
}

/// The reason why a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkEnd {
    /// No event was left.
    Exhausted,
    /// The answer has as many events as asked for.
    Limit,
    /// As many events as the budget allows were looked up.
    Budget,
    /// The answer has no space for the next event.
    Size,
}

/// The result of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkResult<Id> {
    /// The events of the answer, in its order.
    pub found: Vec<Id>,
    /// Events that were walked through and have predecessors that are not held, in the order of
    /// the walk.
    pub gaps: Vec<Id>,
    /// The reason why there are no more.
    pub end: WalkEnd,
    /// How many events were looked up.
    pub visited: u32,
}

#[cfg(test)]
mod drawn;

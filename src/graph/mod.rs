//! Walks through a room's event graph, over numbers of any kind.
//!
//! Pure and deterministic: nodes are looked up through a closure, and never more often than the
//! budget allows. What is found is handed to another closure, one by one, which says whether the answer
//! has room for it: the walk ends at the first that it has none for, as it does at the limit. What the closure does not give (unknown, in another room, an outlier) is not
//! walked. Depth is what the sender claims: it orders an answer and proves nothing.

mod before;
mod missing;
mod order;
mod walk_back;

use std::collections::BTreeMap;

pub use before::Outline;
pub use missing::{Between, walk_missing};
pub use walk_back::walk_back;

/// Where an event stands among others: by depth, then by order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// What the sender claims.
    pub depth: i64,
    /// The order in which the homeserver placed it.
    pub arrival: i64,
}

/// What a walk needs to know of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node<Id> {
    /// Where it stands.
    pub place: Place,
    /// Whether it may be part of an answer; a rejected event may not, but is walked through.
    pub servable: bool,
    /// Its predecessors that are held, in the order given.
    pub prev_events: Vec<Id>,
    /// Whether it has predecessors that are not held.
    pub has_gap: bool,
}

/// Why a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing was left.
    Exhausted,
    /// As many events as asked for were found.
    Limit,
    /// As many events as allowed were looked at.
    Budget,
    /// The next event has no room in the answer.
    Size,
}

/// What a walk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk<Id> {
    /// The events, in the order of the answer.
    pub found: Vec<Id>,
    /// Events walked through that have predecessors which are not held, in the order of the walk.
    pub gaps: Vec<Id>,
    /// Why it ended.
    pub end: End,
    /// How many events were looked up.
    pub visited: u32,
}

/// Looks nodes up, counts, and remembers them.
struct Lookups<Id, F> {
    node: F,
    known: BTreeMap<Id, Node<Id>>,
    visited: u32,
    budget: u32,
}

impl<Id: Copy + Ord, E, F: FnMut(Id) -> Result<Option<Node<Id>>, E>> Lookups<Id, F> {
    fn new(budget: u32, node: F) -> Self {
        Self { node, known: BTreeMap::new(), visited: 0, budget }
    }

    fn is_spent(&self) -> bool {
        self.visited >= self.budget
    }

    /// Looks a node up for the first time.
    fn look_up(&mut self, id: Id) -> Result<Option<&Node<Id>>, E> {
        self.visited += 1;
        if let Some(node) = (self.node)(id)? {
            self.known.insert(id, node);
        }
        Ok(self.known.get(&id))
    }
}

#[cfg(test)]
mod drawn;

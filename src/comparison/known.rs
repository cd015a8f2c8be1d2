//! What is known about the events that the walks of both answers meet.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use crate::graph::Position;

/// The most events that are looked up to explain one difference. A walk of `/backfill` looks up at most
/// 1,400 events.
const MAX_LOOKUPS: usize = 4_000;

/// What is known about one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownEvent {
    /// Orders the walk of `/backfill` and its answer.
    pub position: Position,
    /// The event is held but not placed in the graph.
    pub outlier: bool,
    /// The event failed the authorisation rules.
    pub rejected: bool,
    /// We never serve the event: it breaks the format of its room version, or has a depth that
    /// other servers cannot read.
    pub unservable: bool,
    /// The event is of another room. It is known only because the homeserver returned it.
    pub of_other_room: bool,
    /// The event is a redaction that the homeserver may have been unable to validate: its target is
    /// not held, is rejected, or is of a sender of another server.
    pub may_be_withheld: bool,
    /// The predecessors in the order of the event, each once; also those that are not held.
    pub prev_events: Vec<String>,
}

/// Looks up an event of the room by its id; `None` if it is not held.
type Look<'a, E> = dyn Fn(&str) -> Result<Option<KnownEvent>, E> + 'a;

/// Looks up events, each only once, and only so many.
pub struct KnownEvents<'a, E> {
    look: &'a Look<'a, E>,
    seen: RefCell<BTreeMap<String, Option<Rc<KnownEvent>>>>,
    exhausted: Cell<bool>,
}

impl<'a, E> KnownEvents<'a, E> {
    /// Looks up events with a function.
    pub fn new(look: &'a Look<'a, E>) -> Self {
        Self { look, seen: RefCell::default(), exhausted: Cell::new(false) }
    }

    /// Looks an event up; `None` if it is not held, or if too many were looked up.
    pub(super) fn get(&self, event_id: &str) -> Result<Option<Rc<KnownEvent>>, E> {
        if let Some(known) = self.seen.borrow().get(event_id) {
            return Ok(known.clone());
        }
        if self.seen.borrow().len() >= MAX_LOOKUPS {
            self.exhausted.set(true);
            return Ok(None);
        }
        let known = (self.look)(event_id)?.map(Rc::new);
        self.seen.borrow_mut().insert(event_id.to_owned(), known.clone());
        Ok(known)
    }

    /// Whether more events were asked for than may be looked up. Then nothing can be concluded.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted.get()
    }
}

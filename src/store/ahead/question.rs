//! What a question that walks through a room reads: whether the caller may ask, the events, and the
//! states at them.

use std::collections::{BTreeMap, BTreeSet};

use super::descent::{Descent, Path, Way};
use crate::{
    num,
    state::map::{MapKey, Value},
    store::{
        EventNode, EventNum, PAGE_EVENTS, PrevEvent, Room, RoomNum, StateNum, Store, StoreError,
        View,
        engine::Ahead,
        keys,
        record::{Page, page_of},
    },
    visibility::Standing,
};

/// The most round trips; what is not known then is read when it is asked for.
const MAX_ROUNDS: usize = 12;
/// The most pages that a question reads ahead.
const MAX_PAGES: usize = 64;
/// The most pages that are read ahead at a time, once a walk has left those that were expected.
const MAX_WINDOW: u32 = 16;
/// The most states that a question reads ahead.
const MAX_STATES: usize = 64;

/// What is known of a question that walks through a room.
#[derive(Clone, Debug, Default)]
pub struct ExpectedQuestion<'q> {
    /// The ids of events that are looked up.
    pub event_ids: Vec<&'q str>,
    /// Of these, the number of those from which the walk starts: the first ones.
    pub starts: usize,
    /// The number of events that the walk is to find.
    pub events: usize,
    /// The entries of the states that decide whether the caller may ask.
    pub access: Vec<MapKey>,
    /// The entry of the asking server in the states at events; `None` if it may see everything.
    pub server: Option<MapKey>,
}

impl Store {
    /// A question about a room is about to be answered. `record` is the record of the room.
    pub fn expect_question(
        &self,
        room: RoomNum,
        record: &Room,
        question: &ExpectedQuestion<'_>,
    ) -> Result<(), StoreError> {
        if !self.reads_ahead() {
            return Ok(());
        }
        let mut plan = QuestionPlan::new(self, room, record, question);
        for _ in 0..MAX_ROUNDS {
            let mut ahead = Ahead::default();
            let is_done = plan.round(&mut ahead)?;
            if is_done && ahead.keys.is_empty() && ahead.prefixes.is_empty() {
                break;
            }
            self.engine.read_ahead(&ahead)?;
            plan.descent.arrived();
        }
        Ok(())
    }
}

/// How far the events of a question are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ids,
    Starts,
    Walk,
    Bodies,
    Done,
}

struct QuestionPlan<'a> {
    store: &'a Store,
    room: RoomNum,
    question: &'a ExpectedQuestion<'a>,
    descent: Descent<'a>,
    stage: Stage,
    needs_extremities: bool,
    /// Ways in the states that decide about access.
    access: Vec<Path>,
    /// Ways to the asking server in the states at events.
    at_events: Vec<Path>,
    /// States at events of which the history visibility is not known yet.
    states: Vec<StateNum>,
    seen_states: BTreeSet<StateNum>,
    starts: Vec<EventNum>,
    asked_pages: BTreeSet<u32>,
    pages: BTreeMap<u32, Page>,
    window: u32,
    found: Vec<EventNum>,
}

impl<'a> QuestionPlan<'a> {
    fn new(
        store: &'a Store,
        room: RoomNum,
        record: &Room,
        question: &'a ExpectedQuestion<'a>,
    ) -> Self {
        let deciding = match record.current_state {
            Some(current) => vec![current],
            None => record.last_known.iter().copied().take(MAX_STATES).collect(),
        };
        let ways = |state: StateNum| question.access.iter().map(move |it| Path::new(state, *it));
        Self {
            store,
            room,
            question,
            descent: Descent::new(store, room),
            stage: Stage::Ids,
            needs_extremities: record.current_state.is_none() && question.server.is_some(),
            access: deciding.into_iter().flat_map(ways).collect(),
            at_events: Vec::new(),
            states: Vec::new(),
            seen_states: BTreeSet::new(),
            starts: Vec::new(),
            asked_pages: BTreeSet::new(),
            pages: BTreeMap::new(),
            window: 4,
            found: Vec::new(),
        }
    }

    /// Adds what can be read now. Returns whether nothing is left after that.
    fn round(&mut self, ahead: &mut Ahead) -> Result<bool, StoreError> {
        if std::mem::take(&mut self.needs_extremities) {
            ahead.prefixes.push(keys::extremities(self.room));
        }
        self.events(ahead)?;
        self.follow_access(ahead)?;
        self.follow_states(ahead)?;
        let no_way = self.access.is_empty() && self.at_events.is_empty() && self.states.is_empty();
        Ok(no_way && self.stage == Stage::Done)
    }

    fn events(&mut self, ahead: &mut Ahead) -> Result<(), StoreError> {
        match self.stage {
            Stage::Ids => {
                let ids = self.question.event_ids.iter();
                ahead.keys.extend(ids.map(|it| keys::event(self.room, it)));
                self.stage = Stage::Starts;
            }
            Stage::Starts => {
                for event_id in self.question.event_ids.iter().take(self.question.starts) {
                    self.starts.extend(self.store.event_num(self.room, event_id)?);
                }
                let events = num::u64(self.question.events).div_ceil(PAGE_EVENTS.into()) + 1;
                let count = u32::try_from(events).unwrap_or(MAX_WINDOW);
                let last: BTreeSet<u32> = self.starts.iter().map(|it| page_of(*it)).collect();
                last.into_iter().rev().for_each(|it| self.ask_pages(it, count, ahead));
                self.stage = Stage::Walk;
            }
            Stage::Walk => {
                let left = self.walk()?;
                self.store.add_bodies(self.room, &self.found, ahead);
                self.add_states(ahead);
                match left {
                    Some(page) if self.asked_pages.len() < MAX_PAGES => {
                        self.ask_pages(page, self.window, ahead);
                        self.window = MAX_WINDOW.min(2 * self.window);
                    }
                    Some(_) | None => self.stage = Stage::Bodies,
                }
            }
            Stage::Bodies => {
                self.store.add_own_bodies(self.room, &self.found, ahead)?;
                self.stage = Stage::Done;
            }
            Stage::Done => {}
        }
        Ok(())
    }

    /// Adds a page, and those before it.
    fn ask_pages(&mut self, last: u32, count: u32, ahead: &mut Ahead) {
        for page in (0..=last).rev().take(num::usize(count)) {
            if self.asked_pages.len() < MAX_PAGES && self.asked_pages.insert(page) {
                ahead.keys.push(keys::page(self.room, page));
            }
        }
    }

    /// Walks back through the pages that were read, latest number first: about as the question will.
    /// Returns the last page that it came to and that was not read.
    fn walk(&mut self) -> Result<Option<u32>, StoreError> {
        let mut reach: BTreeSet<EventNum> = self.starts.iter().copied().collect();
        let mut seen = reach.clone();
        let mut left = None;
        self.found.clear();
        while let Some(event) = reach.pop_last() {
            if self.found.len() >= self.question.events {
                return Ok(None);
            }
            let Some(node) = self.node(event)? else {
                left = left.max(Some(page_of(event)).filter(|it| !self.asked_pages.contains(it)));
                continue;
            };
            self.found.push(event);
            for edge in node.prev_events {
                if let PrevEvent::Held(prev) = edge
                    && seen.insert(prev)
                {
                    reach.insert(prev);
                }
            }
        }
        Ok(left)
    }

    fn node(&mut self, event: EventNum) -> Result<Option<EventNode>, StoreError> {
        let page = page_of(event);
        if !self.asked_pages.contains(&page) {
            return Ok(None);
        }
        if !self.pages.contains_key(&page) {
            self.pages.insert(page, self.store.page(self.room, page)?);
        }
        Ok(self.pages.get(&page).and_then(|it| it.get(event)).cloned())
    }

    /// Adds the states after the events that were found, if they decide about what the caller sees.
    fn add_states(&mut self, ahead: &mut Ahead) {
        if self.question.server.is_none() {
            return;
        }
        for event in &self.found {
            let page = self.pages.get(&page_of(*event));
            let state = page.and_then(|it| it.get(*event)).and_then(|it| it.state_after);
            let Some(state) = state else { continue };
            if self.seen_states.len() < MAX_STATES && self.seen_states.insert(state) {
                self.descent.ask(state.root(), ahead);
                self.states.push(state);
            }
        }
    }

    fn follow_access(&mut self, ahead: &mut Ahead) -> Result<(), StoreError> {
        for path in std::mem::take(&mut self.access) {
            match self.descent.follow(path, ahead)? {
                Way::To(path) => self.access.push(path),
                // The content of the event decides.
                Way::End(Some(Value::Event { event, .. })) => {
                    let event = EventNum(event);
                    ahead.keys.push(keys::page(self.room, page_of(event)));
                    let is_parsed = [false, true].into_iter().any(|redacted| {
                        let key = crate::store::ContentKey { room: self.room, event, redacted };
                        self.store.caches.contents.peek(&key).is_some()
                    });
                    if !is_parsed {
                        self.store.add_bodies(self.room, &[event], ahead);
                    }
                }
                Way::End(Some(Value::Server { .. }) | None) => {}
            }
        }
        Ok(())
    }

    fn follow_states(&mut self, ahead: &mut Ahead) -> Result<(), StoreError> {
        let Some(server) = self.question.server else { return Ok(()) };
        for state in std::mem::take(&mut self.states) {
            if !self.descent.is_there(state.root()) {
                self.states.push(state);
                continue;
            }
            let facts = self.store.state_facts(self.room, state)?;
            if !Standing::of_nobody(facts.history_visibility).allows() {
                self.at_events.push(Path::new(state, server));
            }
        }
        for path in std::mem::take(&mut self.at_events) {
            if let Way::To(path) = self.descent.follow(path, ahead)? {
                self.at_events.push(path);
            }
        }
        Ok(())
    }
}

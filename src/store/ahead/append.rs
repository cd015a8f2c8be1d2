//! What appending events reads: their ids, what waits for them, their predecessors, and the entries of
//! the state that they change.

use std::collections::BTreeSet;

use super::{
    MAX_LEVELS,
    descent::{Descent, Path, Way},
};
use crate::{
    num,
    state::map::MapKey,
    store::{Edit, EventNum, PAGE_EVENTS, StoreError, View, engine::Ahead, keys, record::page_of},
};

/// What is known of an event that is about to be appended.
#[derive(Clone, Debug)]
pub struct ExpectedEvent<'e> {
    /// The id of the event.
    pub event_id: &'e str,
    /// The ids of events that it names: its predecessors, and the event that it redacts.
    pub names: Vec<&'e str>,
    /// Whether it redacts an event.
    pub is_redaction: bool,
    /// The entries of the current state that it changes, or that decide about it.
    pub entries: Vec<MapKey>,
}

impl Edit<'_> {
    /// These events are about to be appended in this edit.
    pub fn expect_events(&self, events: &[ExpectedEvent<'_>]) -> Result<(), StoreError> {
        if !self.reads_ahead() || events.is_empty() {
            return Ok(());
        }
        let (room, engine) = (self.number, &self.store.engine);
        let mut descent = Descent::new(self.store, room);
        let mut paths = self.paths(events);
        let mut ahead = Ahead::default();
        self.add_ids(events, &mut ahead);
        self.add_last_page(events.len(), &mut ahead);
        self.follow(&mut paths, &mut descent, &mut ahead)?;
        engine.read_ahead(&ahead)?;
        descent.arrived();
        let mut ahead = Ahead::default();
        self.add_held(events, &mut ahead)?;
        for _ in 0..MAX_LEVELS {
            self.follow(&mut paths, &mut descent, &mut ahead)?;
            engine.read_ahead(&ahead)?;
            descent.arrived();
            if paths.is_empty() {
                break;
            }
            ahead = Ahead::default();
        }
        Ok(())
    }

    fn paths(&self, events: &[ExpectedEvent<'_>]) -> Vec<Path> {
        let Some(current) = self.room.current_state else { return Vec::new() };
        let entries: BTreeSet<MapKey> = events.iter().flat_map(|it| it.entries.clone()).collect();
        entries.into_iter().map(|key| Path::new(current, key)).collect()
    }

    /// Follows ways through the current state by one level.
    fn follow(
        &self,
        paths: &mut Vec<Path>,
        descent: &mut Descent<'_>,
        ahead: &mut Ahead,
    ) -> Result<(), StoreError> {
        for path in std::mem::take(paths) {
            if let Way::To(path) = descent.follow(path, ahead)? {
                paths.push(path);
            }
        }
        Ok(())
    }

    /// Adds what is noted under the ids of the events, and the ids that they name.
    fn add_ids(&self, events: &[ExpectedEvent<'_>], ahead: &mut Ahead) {
        let room = self.number;
        let ids = events.iter().flat_map(|it| it.names.iter().copied().chain([it.event_id]));
        let ids: BTreeSet<&str> = ids.collect();
        ahead.keys.extend(ids.into_iter().map(|it| keys::event(room, it)));
        ahead.keys.push(keys::deriving(room));
        ahead.prefixes.push(keys::extremities(room));
        if events.iter().any(|it| it.is_redaction) {
            ahead.prefixes.push(keys::powers(room));
        }
        for event in events {
            ahead.prefixes.push(keys::all_redactions(room, event.event_id));
            ahead.prefixes.push(keys::missing(room, event.event_id));
            ahead.prefixes.push(keys::wanted(room, event.event_id));
        }
    }

    /// Adds the last page of nodes, and the bodies of its events if the edit fills it.
    fn add_last_page(&self, added: usize, ahead: &mut Ahead) {
        let next = self.first_new.0;
        let held = next % PAGE_EVENTS;
        if let Some(last) = next.checked_sub(1) {
            ahead.keys.push(keys::page(self.number, page_of(EventNum(last))));
        }
        if held > 0 && num::u64(added) >= u64::from(PAGE_EVENTS - held) {
            let bodies = (next - held..next).map(|it| keys::body(self.number, EventNum(it)));
            ahead.keys.extend(bodies);
        }
    }

    /// Adds the nodes of the events that are named, and everything of the events that are held already
    /// or redacted. Their ids were read ahead.
    fn add_held(&self, events: &[ExpectedEvent<'_>], ahead: &mut Ahead) -> Result<(), StoreError> {
        let room = self.number;
        let mut pages = BTreeSet::new();
        let mut whole = Vec::new();
        for event in events {
            whole.extend(self.event_num(room, event.event_id)?);
            for name in &event.names {
                let Some(named) = self.event_num(room, name)? else { continue };
                pages.insert(page_of(named));
                if event.is_redaction {
                    whole.push(named);
                }
            }
        }
        pages.extend(whole.iter().map(|it| page_of(*it)));
        ahead.keys.extend(pages.into_iter().map(|it| keys::page(room, it)));
        self.store.add_bodies(room, &whole, ahead);
        Ok(())
    }
}

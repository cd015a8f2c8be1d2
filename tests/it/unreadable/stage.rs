//! A room with one unreadable event, and requests about it.

use backscroll::{
    ingest::{self, NewEvent, Outcome, Verdict},
    pdu::RoomVersion,
    query::{Asker, Backfill, GetMissingEvents},
};
use backscroll_testkit::{Event, Room};
use serde_json::json;

use super::{ALICE, BOB, rows::Row};
use crate::support::{
    answers::Question,
    events::{DraftExt as _, RoomExt as _},
    memory::Memory,
    model::HOME,
};

/// A room of two servers with a few messages and one unreadable event in the middle.
pub(super) struct Stage {
    pub(super) memory: Memory,
    pub(super) room: Room,
    pub(super) before: Vec<Event>,
    pub(super) unreadable: Event,
    pub(super) after: Vec<Event>,
}

impl Stage {
    pub(super) fn begin(version: RoomVersion) -> (Memory, Room, Vec<Event>) {
        let (room, create) = Room::new(version, ALICE);
        let mut events = vec![create];
        for draft in [
            room.member(ALICE, ALICE, "join"),
            room.state(
                ALICE,
                "m.room.history_visibility",
                "",
                json!({"history_visibility": "joined"}),
            ),
            room.member(BOB, BOB, "join"),
            room.message(BOB, "before"),
        ] {
            let event = draft.after(events.last()).finish();
            events.push(event);
        }
        let memory = Memory::new();
        for event in &events {
            append(&memory, &room.accepted(event));
        }
        (memory, room, events)
    }

    pub(super) fn new(version: RoomVersion, row: Row, verdict: Verdict) -> Self {
        let (memory, room, before) = Self::begin(version);
        let draft = room.message(ALICE, "odd").after(before.last());
        let change = |text: String| (row.change)(version, serde_json::from_str(&text).unwrap());
        let unreadable = draft.unreadable(|text| change(text).replacen(',', " ,", 1));
        let outcome = ingest::append_unflushed(
            &memory.cx,
            &NewEvent { verdict, ..room.accepted(&unreadable) },
        );
        let outcome = outcome.unwrap();
        let Outcome::Appended {
            duplicate: false, unreadable: Some(_), state_unknown: false, ..
        } = outcome
        else {
            panic!("version {version}, {}: {outcome:?}", row.what);
        };
        let mut after = Vec::new();
        for body in ["after", "after that"] {
            let event =
                room.message(BOB, body).after([after.last().unwrap_or(&unreadable)]).finish();
            append(&memory, &room.accepted(&event));
            after.push(event);
        }
        Self { memory, room, before, unreadable, after }
    }

    /// The ids of the events that are served, newest first.
    pub(super) fn served(&self) -> Vec<&str> {
        let all = self.before.iter().chain(&self.after).rev();
        all.map(|it| it.event_id.as_str()).collect()
    }
}

pub(super) fn append(memory: &Memory, event: &NewEvent<'_>) {
    let outcome = ingest::append_unflushed(&memory.cx, event).unwrap();
    assert!(matches!(outcome, Outcome::Appended { duplicate: false, .. }), "{outcome:?}");
}

pub(super) fn asker(origin: &str) -> Asker {
    Asker::Server { origin: origin.to_owned(), destination: HOME.to_owned() }
}

pub(super) fn backfill(room: &Room, from: &Event, origin: &str) -> Question {
    Question::Backfill(Backfill {
        room_id: room.room_id.clone(),
        asker: asker(origin),
        event_ids: vec![from.event_id.clone()],
        limit: Some(100),
    })
}

pub(super) fn missing_events(room: &Room, from: &Event, origin: &str) -> Question {
    Question::MissingEvents(GetMissingEvents {
        room_id: room.room_id.clone(),
        asker: asker(origin),
        earliest_events: vec![],
        latest_events: vec![from.event_id.clone()],
        limit: Some(20),
        min_depth: 3,
    })
}

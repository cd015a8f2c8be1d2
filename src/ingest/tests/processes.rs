//! Two processes over one store: what one of them changes is heeded by the other, and work that is
//! done in many steps goes on though the other changes the room meanwhile.

use std::{ops::ControlFlow, time::Duration};

use backscroll_testkit::{Draft, Event, Room};

use super::content::{ALICE, BOB, DAY_MS, NOW_MS};
use crate::{
    context::Context,
    deadline::Deadline,
    ingest::{
        NewEvent, NotesLeft, Outcome, PurgeError, PurgedHistory, RemovedEvents, Replace, Verdict,
        append_unflushed, purge_history, remove_content, remove_events, set_ban_redaction,
        set_rooms_served, settle_waiting, work_off,
    },
    pdu::RoomVersion,
    query::{
        self, Asker, Backfill, ExplainAccess, ListErasedUsers, PageRequest, QueryError, ServedPage,
    },
    store::{BanRedaction, BannedUser, NotServedReason, Store, StoreError, View as _},
    verify::{self, Fault, Watch},
    visibility::Form,
};

/// Two processes over one store, and a room in it.
struct Pair {
    one: Context,
    other: Context,
    room: Room,
    create: Event,
    join: Event,
}

impl Pair {
    fn new() -> Self {
        let mut stores = Store::sharing(2).into_iter().map(Context::new);
        let (one, other) = (stores.next().unwrap(), stores.next().unwrap());
        let (room, create) = Room::new(RoomVersion::V10, ALICE);
        let join = room.member(ALICE, ALICE, "join").after([&create]);
        let join = join.authorised_by([create.event_id.clone()]).finish();
        let mut pair = Self { one, other, room, create, join };
        pair.append(&pair.one, &pair.create, Verdict::Accepted);
        pair.append(&pair.other, &pair.join, Verdict::Accepted);
        let carol = "@carol:two.example";
        let carol = pair.room.member(carol, carol, "join").after([&pair.join]);
        // All other events follow this one.
        pair.join = pair.finished(&pair.one, carol);
        pair
    }

    fn append(&self, cx: &Context, event: &Event, verdict: Verdict) {
        let version = self.room.version.as_str();
        let pdu = event.pdu.as_bytes();
        let new = NewEvent::accepted(&self.room.room_id, version, &event.event_id, pdu);
        let new = NewEvent { verdict, replace: Replace::Changed, ..new };
        match append_unflushed(cx, &new).unwrap() {
            Outcome::Appended { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn finished(&self, cx: &Context, draft: Draft<'_>) -> Event {
        let event = draft.authorised_by([self.create.event_id.clone(), self.join.event_id.clone()]);
        let event = event.finish();
        self.append(cx, &event, Verdict::Accepted);
        event
    }

    /// A line of messages after an event.
    fn line(&self, cx: &Context, after: &Event, count: usize) -> Vec<Event> {
        let mut events: Vec<Event> = Vec::new();
        for number in 0..count {
            let message = self.room.message(ALICE, &format!("text {number}"));
            let message = message.after([events.last().unwrap_or(after)]);
            events.push(self.finished(cx, message));
        }
        events
    }

    fn redact(&self, cx: &Context, target: &Event) {
        self.finished(cx, self.room.redaction(ALICE, &target.event_id).after([target]));
    }

    /// Redacts an event, and replaces its body on disk by its redacted form.
    fn strip(&self, cx: &Context, target: &Event) {
        self.redact(cx, target);
        remove_content(cx, NOW_MS).unwrap();
        remove_content(cx, NOW_MS + 8 * DAY_MS).unwrap();
    }

    fn asked(&self, cx: &Context, events: &[&Event]) -> Result<ServedPage, QueryError> {
        let question = Backfill {
            room_id: self.room.room_id.clone(),
            asker: Asker::Server {
                origin: "two.example".to_owned(),
                destination: "one.example".to_owned(),
            },
            event_ids: events.iter().map(|it| it.event_id.clone()).collect(),
            limit: Some(1),
        };
        query::answer(cx, &question, &Deadline::none())
    }

    fn form(&self, cx: &Context, event: &Event) -> Form {
        self.asked(cx, &[event]).unwrap().events[0].form
    }

    fn assert_sound(&self) {
        for cx in [&self.one, &self.other] {
            settle_waiting(&cx.store, &self.room.room_id).unwrap();
            let mut watch = Disturbed { faults: Vec::new(), disturb: Box::new(|| {}) };
            assert!(verify::verify(&cx.store, &mut watch).unwrap().is_continue());
            assert_eq!(watch.faults, []);
        }
    }
}

/// A verification that is disturbed between its steps.
struct Disturbed<'a> {
    faults: Vec<Fault>,
    disturb: Box<dyn FnMut() + 'a>,
}

impl Watch for Disturbed<'_> {
    fn events(&mut self, _: u32) {}

    fn fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    fn pause(&mut self) -> ControlFlow<()> {
        (self.disturb)();
        ControlFlow::Continue(())
    }
}

#[test]
fn an_erasure_a_ban_and_a_room_not_served_are_heeded_by_the_other_process() {
    let pair = Pair::new();
    let (one, other) = (&pair.one, &pair.other);
    let bob = pair.room.member(BOB, BOB, "join").after([&pair.join]);
    let bob = pair.finished(one, bob);
    let by_bob = pair.finished(one, pair.room.message(BOB, "text").after([&bob]));
    assert_eq!(pair.form(other, &by_bob), Form::Full);
    let user = BannedUser { room_id: pair.room.room_id.clone(), user_id: BOB.to_owned() };
    let ban = BanRedaction { ban_event_id: "$ban".to_owned(), before_arrival: None };
    set_ban_redaction(&one.store, &user, Some(&ban)).unwrap();
    assert_ne!(pair.form(other, &by_bob), Form::Full);
    set_ban_redaction(&other.store, &user, None).unwrap();
    assert_eq!(pair.form(one, &by_bob), Form::Full);

    let rooms = [pair.room.room_id.clone()];
    set_rooms_served(&other.store, &rooms, Some(NotServedReason::Blocked)).unwrap();
    assert!(matches!(pair.asked(one, &[&by_bob]), Err(QueryError::NotServed(_))));
    set_rooms_served(&one.store, &rooms, None).unwrap();
    assert!(pair.asked(other, &[&by_bob]).is_ok());

    // Both write; neither hides the change of the other.
    one.store.set_erased(BOB, true).unwrap();
    other.store.set_erased(ALICE, true).unwrap();
    for cx in [one, other] {
        let list = ListErasedUsers { page: PageRequest { size: 9, token: String::new() } };
        let users = query::answer(cx, &list, &Deadline::none()).unwrap().ids;
        assert_eq!(users, [ALICE, BOB]);
        let question = ExplainAccess {
            room_id: pair.room.room_id.clone(),
            event_id: by_bob.event_id.clone(),
            origin: "two.example".to_owned(),
            destination: "one.example".to_owned(),
        };
        let facts = query::answer(cx, &question, &Deadline::none()).unwrap().facts;
        assert!(facts.iter().any(|it| it.contains("eras")), "{facts:?}");
    }
}

#[test]
fn a_redaction_is_heeded_by_the_other_process_and_a_replaced_body_gives_the_room_another_number() {
    let pair = Pair::new();
    let events = pair.line(&pair.one, &pair.join, 3);
    let number = || pair.other.store.room_num(&pair.room.room_id).unwrap().unwrap();
    let before = number();
    assert_eq!(pair.form(&pair.other, &events[1]), Form::Full);
    assert_eq!(number(), before);
    pair.redact(&pair.one, &events[1]);
    assert_ne!(pair.form(&pair.other, &events[1]), Form::Full);
    assert_eq!(number(), before);
    pair.strip(&pair.one, &events[2]);
    assert_ne!(number(), before);
    assert_eq!(number(), number());
    assert!(matches!(pair.other.store.room(before), Err(StoreError::Missing { .. })));
    pair.assert_sound();
}

#[test]
fn a_purge_goes_on_though_the_other_process_changes_the_room() {
    let pair = Pair::new();
    let events = pair.line(&pair.one, &pair.join, 70);
    let purged = PurgedHistory {
        room_id: &pair.room.room_id,
        event_id: &events[40].event_id,
        may_return: false,
    };
    let mut watch = |_| {
        pair.strip(&pair.other, &events[60]);
        ControlFlow::Continue(())
    };
    let progress = purge_history(&pair.one.store, purged, &mut watch).unwrap();
    assert!(progress.done);
    assert_eq!(progress.removed, 40);
    let held = |cx: &Context, event: &Event| {
        let room = cx.store.room_num(&pair.room.room_id).unwrap().unwrap();
        cx.store.event_num(room, &event.event_id).unwrap().is_some()
    };
    for cx in [&pair.one, &pair.other] {
        assert!(!held(cx, &events[39]) && held(cx, &events[40]));
    }
    pair.assert_sound();
}

#[test]
fn a_removal_of_events_goes_on_though_the_other_process_changes_the_room() {
    let pair = Pair::new();
    let events = pair.line(&pair.one, &pair.join, 10);
    let event_ids: Vec<String> = events[3..6].iter().map(|it| it.event_id.clone()).collect();
    let removed = RemovedEvents {
        room_id: &pair.room.room_id,
        event_ids: &event_ids,
        keep_as_outliers: false,
    };
    let mut watch = |_| {
        pair.strip(&pair.other, &events[8]);
        ControlFlow::Continue(())
    };
    let progress = remove_events(&pair.one.store, removed, &mut watch).unwrap();
    assert!(progress.done);
    assert_eq!(progress.removed, 3);
    pair.assert_sound();
}

#[test]
fn a_purge_ends_when_the_other_process_deletes_the_room() {
    let pair = Pair::new();
    let events = pair.line(&pair.one, &pair.join, 10);
    let purged = PurgedHistory {
        room_id: &pair.room.room_id,
        event_id: &events[5].event_id,
        may_return: false,
    };
    let mut watch = |_| {
        pair.other.store.delete_room(&pair.room.room_id).unwrap().unwrap();
        ControlFlow::Continue(())
    };
    let ended = purge_history(&pair.one.store, purged, &mut watch);
    assert!(matches!(ended, Err(PurgeError::RoomUnknown(_))), "{ended:?}");
}

#[test]
fn what_one_process_has_to_derive_again_either_of_them_derives() {
    let pair = Pair::new();
    let bob = pair.finished(&pair.one, pair.room.member(BOB, BOB, "join").after([&pair.join]));
    let events = pair.line(&pair.one, &bob, 40);
    for (nth, verdict) in [Verdict::Rejected, Verdict::Accepted].into_iter().enumerate() {
        let (one, other) = (&pair.one, &pair.other);
        let (notes, works) = if nth == 0 { (one, other) } else { (other, one) };
        pair.append(notes, &bob, verdict);
        assert!(matches!(pair.asked(works, &[&events[9]]), Err(QueryError::NotServed(_))));
        settle_waiting(&works.store, &pair.room.room_id).unwrap();
        while work_off(notes).unwrap() != NotesLeft::None {}
        assert!(pair.asked(notes, &[&events[9]]).is_ok());
    }
    pair.assert_sound();
}

#[test]
fn while_one_process_repairs_the_store_the_other_answers_and_changes_nothing() {
    let pair = Pair::new();
    let events = pair.line(&pair.one, &pair.join, 3);
    let being_repaired = |failure| matches!(failure, StoreError::BeingRepaired);
    let alone = pair.one.store.repair_alone(Duration::ZERO).unwrap();
    let asked = pair.asked(&pair.other, &[&events[1]]);
    assert!(matches!(asked, Err(QueryError::Store(StoreError::BeingRepaired))), "{asked:?}");
    assert!(being_repaired(pair.other.store.set_erased(BOB, true).err().unwrap()));
    assert!(being_repaired(pair.other.store.delete_room(&pair.room.room_id).err().unwrap()));
    assert!(being_repaired(pair.other.store.repair_alone(Duration::ZERO).err().unwrap()));
    alone.check().unwrap();
    pair.line(&pair.one, &events[2], 1);
    drop(alone);
    assert!(pair.asked(&pair.other, &[&events[1]]).is_ok());
    pair.other.store.set_erased(BOB, true).unwrap();
    let repaired = verify::repair(&pair.other.store, 0, &mut |_| {}).unwrap();
    assert!(repaired.left.is_empty() && repaired.mended.is_empty());
    pair.assert_sound();
}

#[test]
fn a_store_is_verified_though_the_other_process_changes_it_meanwhile() {
    let pair = Pair::new();
    let events = pair.line(&pair.one, &pair.join, 40);
    let mut targets = events.iter().take(6);
    let mut last = events.last().unwrap().clone();
    let mut disturbances = 0;
    let disturb = || {
        if let Some(target) = targets.next() {
            pair.strip(&pair.other, target);
            last = pair.line(&pair.other, &last, 1).pop().unwrap();
            disturbances += 1;
        }
    };
    let mut watch = Disturbed { faults: Vec::new(), disturb: Box::new(disturb) };
    assert!(verify::verify(&pair.one.store, &mut watch).unwrap().is_continue());
    assert_eq!(watch.faults, []);
    drop(watch);
    assert!(disturbances > 2, "{disturbances}");
    pair.assert_sound();
}

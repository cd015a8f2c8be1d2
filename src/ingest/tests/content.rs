//! Content of redacted events leaves the disk, and nothing that is derived changes because of it.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use backscroll_testkit::{Draft, Event, Room};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::{
    context::Context,
    deadline::Deadline,
    ingest::{
        NewEvent, Outcome, PurgedHistory, append_unflushed, purge_history, remove_content,
        set_ban_redaction,
    },
    pdu::{Pdu, RoomVersion},
    query::{self, BatchGetEvents, RoomEvent},
    store::{
        BanRedaction, BannedUser, Decision, EventNum, Options, RedactedContent, RedactedSearch,
        Store, StoreError, View as _,
    },
    verify,
};

pub(super) const ALICE: &str = "@alice:one.example";
pub(super) const BOB: &str = "@bob:one.example";
pub(super) const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
pub(super) const NOW_MS: u64 = 20_000 * DAY_MS;
/// More than fit into a page of events.
const MANY: usize = 70;

pub(super) struct Held {
    pub(super) cx: Context,
    pub(super) room: Room,
    pub(super) create: Event,
    pub(super) join: Event,
    dir: TempDir,
}

pub(super) fn options(dir: &Path, days: u64) -> Options {
    let redacted_content = RedactedContent::RemovedAfter(Duration::from_millis(days * DAY_MS));
    Options { redacted_content, ..Options::small(dir) }
}

impl Held {
    pub(super) fn new(version: RoomVersion) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cx = Context::new(Store::open(&options(dir.path(), 7)).unwrap());
        let (room, create) = Room::new(version, ALICE);
        let join = room.member(ALICE, ALICE, "join").after([&create]);
        let join = join.authorised_by([create.event_id.clone()]).finish();
        let held = Self { cx, room, create, join, dir };
        held.append(&held.create);
        held.append(&held.join);
        held
    }

    fn new_event<'a>(&'a self, event: &'a Event) -> NewEvent<'a> {
        let pdu = event.pdu.as_bytes();
        NewEvent::accepted(&self.room.room_id, self.room.version.as_str(), &event.event_id, pdu)
    }

    pub(super) fn append(&self, event: &Event) -> bool {
        match append_unflushed(&self.cx, &self.new_event(event)).unwrap() {
            Outcome::Appended { duplicate, .. } => duplicate,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn finished(&self, draft: Draft<'_>) -> Event {
        let event = draft.authorised_by([self.create.event_id.clone(), self.join.event_id.clone()]);
        let event = event.finish();
        self.append(&event);
        event
    }

    pub(super) fn said(&self, sender: &str, text: &str) -> Event {
        self.finished(self.room.message(sender, text).after([&self.join]))
    }

    pub(super) fn redact(&self, target: &Event) -> Event {
        self.finished(self.room.redaction(ALICE, &target.event_id).after([&self.join]))
    }

    pub(super) fn ban(&self, ban: Option<&BanRedaction>) {
        let (room_id, user_id) = (self.room.room_id.clone(), BOB.to_owned());
        set_ban_redaction(&self.cx.store, &BannedUser { room_id, user_id }, ban).unwrap();
    }

    pub(super) fn read(&self, event: &Event) -> RoomEvent {
        let question = BatchGetEvents {
            room_id: self.room.room_id.clone(),
            event_ids: vec![event.event_id.clone()],
        };
        query::answer(&self.cx, &question, &Deadline::none()).unwrap().events.remove(0)
    }

    pub(super) fn is_whole(&self, event: &Event) -> bool {
        let read = self.read(event);
        let version = RoomVersion::parse(self.room.version.as_str()).unwrap();
        let whole = Pdu::parse(event.pdu.as_bytes(), version).unwrap();
        let is_whole = read.pdu == whole.bytes_as_received();
        assert!(is_whole || read.pdu == whole.redacted().unwrap().bytes_as_received());
        is_whole
    }

    pub(super) fn pass(&self, now_ms: u64) {
        remove_content(&self.cx, now_ms).unwrap();
    }

    pub(super) fn faults(&self, now_ms: u64) -> Vec<String> {
        faults(&self.cx, now_ms)
    }

    fn due(&self) -> u64 {
        self.cx.store.count_content_due(usize::MAX).unwrap().events
    }
}

#[derive(Default)]
struct Found {
    now_ms: u64,
    faults: Vec<String>,
}

impl verify::Watch for Found {
    fn events(&mut self, _: u32) {}

    fn fault(&mut self, fault: verify::Fault) {
        self.faults.push(fault.to_string());
    }

    fn now_ms(&self) -> u64 {
        self.now_ms
    }
}

pub(super) fn faults(cx: &Context, now_ms: u64) -> Vec<String> {
    let mut found = Found { now_ms, ..Found::default() };
    assert!(verify::verify(&cx.store, &mut found).unwrap().is_continue());
    found.faults
}

#[test]
fn content_is_removed_when_the_time_is_over_and_not_before() {
    let held = Held::new(RoomVersion::V10);
    let said: Vec<Event> = (0..MANY).map(|it| held.said(ALICE, &format!("text {it}"))).collect();
    // One in a full page, and one in a page that is not full.
    let (first, last) = (&said[3], &said[MANY - 1]);
    for target in [first, last] {
        held.redact(target);
    }
    held.pass(NOW_MS);
    held.pass(NOW_MS + 7 * DAY_MS - 1);
    assert!(held.is_whole(first) && held.is_whole(last));
    assert_eq!(held.due(), 2);
    held.pass(NOW_MS + 7 * DAY_MS);
    assert!(!held.is_whole(first) && !held.is_whole(last));
    assert_eq!(held.due(), 0);
    for other in
        said.iter().filter(|it| ![first, last].map(|it| &it.event_id).contains(&&it.event_id))
    {
        assert!(held.is_whole(other));
    }
    assert!(held.read(first).redacted);
    // The whole event is the same event, and does not return.
    assert!(held.append(first));
    assert!(!held.is_whole(first));
    assert_eq!(held.faults(NOW_MS + 100 * DAY_MS), Vec::<String>::new());
}

#[test]
fn a_clock_that_was_wrong_does_not_keep_content_for_ever() {
    let held = Held::new(RoomVersion::V10);
    let said = held.said(ALICE, "text");
    held.redact(&said);
    held.pass(NOW_MS + 1_000 * DAY_MS);
    // The clock is right again.
    held.pass(NOW_MS);
    held.pass(NOW_MS + 7 * DAY_MS - 1);
    assert!(held.is_whole(&said));
    held.pass(NOW_MS + 7 * DAY_MS);
    assert!(!held.is_whole(&said));
}

#[test]
fn a_ban_that_redacts_takes_effect_at_once_and_can_be_taken_back() {
    let held = Held::new(RoomVersion::V10);
    let early = held.said(BOB, "early");
    let other = held.said(ALICE, "other");
    let ban = BanRedaction { ban_event_id: "$ban".to_owned(), before_arrival: None };
    held.ban(Some(&ban));
    assert!(held.read(&early).redacted && !held.read(&other).redacted);
    let late = held.said(BOB, "late");
    assert!(held.read(&late).redacted);
    held.pass(NOW_MS);
    assert_eq!(held.due(), 2);
    held.ban(None);
    assert!(!held.read(&early).redacted && !held.read(&late).redacted);
    held.pass(NOW_MS + 7 * DAY_MS);
    assert!(held.is_whole(&early) && held.is_whole(&late));
    held.ban(Some(&BanRedaction { before_arrival: Some(held.read(&late).arrival), ..ban }));
    assert!(held.read(&early).redacted && !held.read(&late).redacted);
    held.pass(NOW_MS);
    held.pass(NOW_MS + 7 * DAY_MS);
    assert!(!held.is_whole(&early) && held.is_whole(&late) && held.is_whole(&other));
    assert_eq!(held.faults(NOW_MS + 100 * DAY_MS), Vec::<String>::new());
}

/// The search for the events of a banned user takes several turns, and goes on after a restart.
#[test]
fn the_events_of_a_banned_user_are_searched_in_turns() {
    let held = Held::new(RoomVersion::V10);
    let said: Vec<Event> = (0..600).map(|it| held.said(BOB, &format!("text {it}"))).collect();
    held.ban(Some(&BanRedaction { ban_event_id: "$ban".to_owned(), before_arrival: None }));
    assert!(crate::ingest::ban_redaction::search(&held.cx.store).unwrap());
    let Held { cx, room, create, join, dir } = held;
    assert!(cx.store.count_content_due(usize::MAX).unwrap().events < 300);
    drop(cx);
    let cx = Context::new(Store::open(&options(dir.path(), 0)).unwrap());
    let held = Held { cx, room, create, join, dir };
    held.pass(NOW_MS);
    assert!(said.iter().all(|it| !held.is_whole(it)));
    assert_eq!(held.faults(NOW_MS), Vec::<String>::new());
}

/// In room version 10 the redacted form of a redaction does not name the target any more.
#[test]
fn a_redaction_without_content_stays_in_effect_and_can_be_purged() {
    for version in [RoomVersion::V1, RoomVersion::V10, RoomVersion::V11] {
        let held = Held::new(version);
        let said = held.said(ALICE, "text");
        let redaction = held.room.redaction(ALICE, &said.event_id).after([&held.join]);
        let content = json!({"redacts": said.event_id, "reason": "text"});
        let redaction = held.finished(redaction.with("content", content));
        held.redact(&redaction);
        held.pass(NOW_MS);
        held.pass(NOW_MS + 7 * DAY_MS);
        assert!(!held.is_whole(&said) && !held.is_whole(&redaction));
        assert_eq!(held.faults(NOW_MS + 100 * DAY_MS), Vec::<String>::new(), "{version}");
        let last = held.finished(held.room.message(ALICE, "last").after([&redaction]));
        let mut watch = |_| ControlFlow::Continue(());
        let (store, room_id) = (&held.cx.store, held.room.room_id.as_str());
        let purged = PurgedHistory { room_id, event_id: &last.event_id, may_return: false };
        purge_history(store, purged, &mut watch).unwrap();
        assert_eq!(held.faults(NOW_MS + 100 * DAY_MS), Vec::<String>::new(), "{version}");
    }
}

#[test]
fn events_that_were_redacted_before_format_5_are_found_once() {
    let held = Held::new(RoomVersion::V10);
    let said = held.said(ALICE, "text");
    held.redact(&said);
    let room_id = held.room.room_id.as_str();
    let number = held.cx.store.room_num(room_id).unwrap().unwrap();
    let event = held.cx.store.event_num(number, &said.event_id).unwrap().unwrap();
    let forget = |edit: &mut crate::store::Edit<'_>| {
        edit.remove_content_due(event);
        Ok::<_, StoreError>(Decision::Commit(()))
    };
    held.cx.store.decide(room_id, None, forget).unwrap().unwrap();
    // Nothing is reported until the search has ended.
    assert_eq!(held.faults(NOW_MS), Vec::<String>::new());
    held.pass(NOW_MS);
    assert_eq!(held.cx.store.redacted_search().unwrap(), RedactedSearch::Done);
    assert_eq!(held.due(), 1);
    held.cx.store.decide(room_id, None, forget).unwrap().unwrap();
    let [fault] = &held.faults(NOW_MS)[..] else { panic!("one fault") };
    assert!(fault.contains("not noted for removal"), "{fault}");
    let repaired = verify::repair(&held.cx.store, NOW_MS, &mut |_| {}).unwrap();
    assert_eq!((repaired.mended.len(), repaired.left.len(), held.due()), (1, 0, 1));
}

#[test]
fn overdue_content_is_reported_and_removed_by_a_repair() {
    let held = Held::new(RoomVersion::V10);
    let said = held.said(ALICE, "text");
    held.redact(&said);
    held.pass(NOW_MS);
    assert_eq!(held.faults(NOW_MS + 8 * DAY_MS), Vec::<String>::new());
    let late = NOW_MS + 8 * DAY_MS + 1;
    let [fault] = &held.faults(late)[..] else { panic!("one fault") };
    assert!(fault.contains("should have been removed"), "{fault}");
    let repaired = verify::repair(&held.cx.store, late, &mut |_| {}).unwrap();
    assert_eq!((repaired.mended.len(), repaired.left.len()), (1, 0));
    assert!(!held.is_whole(&said));
}

/// A redaction that is held before its target redacts an outlier as well.
#[test]
fn an_outlier_that_was_redacted_before_is_redacted() {
    let held = Held::new(RoomVersion::V10);
    let topic = held.room.state(ALICE, "m.room.topic", "", json!({"topic": "text"}));
    let topic = topic.after([&held.join]);
    let topic = topic.authorised_by([held.create.event_id.clone()]).finish();
    held.redact(&topic);
    let outlier = NewEvent { outlier: true, ..held.new_event(&topic) };
    append_unflushed(&held.cx, &outlier).unwrap();
    assert!(held.read(&topic).redacted);
    held.pass(NOW_MS);
    held.pass(NOW_MS + 7 * DAY_MS);
    assert!(!held.is_whole(&topic));
}

/// A text that hardly compresses and makes up most of a block.
fn secret(number: u32) -> String {
    let part = |it: u32| STANDARD_NO_PAD.encode(Sha256::digest(format!("{number} {it}")));
    (0..140).map(part).collect()
}

/// How many of some stored values are still somewhere in the files of a folder.
fn left_in_files(folder: &Path, values: &[Vec<u8>]) -> usize {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(std::fs::read(path).unwrap());
            }
        }
    }
    let is_left = |value: &Vec<u8>| {
        // The middle is part of the secret, compressed.
        let part = &value[value.len() / 2..][..24];
        files.iter().any(|it| it.windows(part.len()).any(|it| it == part))
    };
    values.iter().filter(|it| is_left(it)).count()
}

/// The store of which a copy is made still has the removed content somewhere in its log. The copy has
/// the same records, and nothing of that content.
#[test]
fn a_copy_of_the_store_has_no_byte_of_removed_content() {
    let held = Held::new(RoomVersion::V10);
    if !held.cx.store.is_in_files() {
        println!("skipped: this is about files");
        return;
    }
    let said: Vec<Event> = (0..200)
        .map(|it| if it % 40 == 7 { secret(it) } else { format!("text {it}") })
        .map(|it| held.said(ALICE, &it))
        .collect();
    let targets: Vec<&Event> = said.iter().skip(7).step_by(40).collect();
    let number = held.cx.store.room_num(&held.room.room_id).unwrap().unwrap();
    let event = |it: &Event| held.cx.store.event_num(number, &it.event_id).unwrap().unwrap();
    targets.iter().for_each(|it| drop(held.redact(it)));
    let stored: Vec<Vec<u8>> =
        targets.iter().map(|it| held.cx.store.stored_body(number, event(it))).collect();
    held.cx.store.flush().unwrap();
    assert_eq!(left_in_files(held.dir.path(), &stored), targets.len(), "the search finds values");
    held.pass(NOW_MS);
    held.pass(NOW_MS + 7 * DAY_MS);
    println!(
        "{} of {} values are left in the log",
        left_in_files(held.dir.path(), &stored),
        targets.len()
    );
    let dir = tempfile::tempdir().unwrap();
    let copy = Store::open(&options(dir.path(), 7)).unwrap();
    let copied = AtomicU64::new(0);
    let count = |it| {
        copied.fetch_add(it, Ordering::Relaxed);
    };
    held.cx.store.copy_into(&copy, &count).unwrap();
    assert!(copied.into_inner() > 20);
    drop(copy);
    assert_eq!(left_in_files(dir.path(), &stored), 0);
    let copy = Store::open(&options(dir.path(), 7)).unwrap();
    let room = copy.room(number).unwrap();
    assert_eq!(room, held.cx.store.room(number).unwrap());
    for event in (0..room.next_event.0).map(EventNum) {
        assert_eq!(copy.body(number, event).unwrap(), held.cx.store.body(number, event).unwrap());
    }
    assert_eq!(faults(&Context::new(copy), NOW_MS), Vec::<String>::new());
}

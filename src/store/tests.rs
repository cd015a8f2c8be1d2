//! Opening, editing, listing, blocks of bodies, group commit.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use proptest::prelude::*;

use super::{
    blocks::{Block, MAX_MEMBER},
    engine::{Changes, GroupCommit},
    format::FORMAT,
    record::page_of,
    *,
};

/// Damage that no writer does.
impl Store {
    /// Writes a value without its checksum, or removes the record.
    pub(crate) fn put_raw(&self, key: &[u8], value: Option<Vec<u8>>) {
        self.engine.put(Changes::from([(key.to_vec(), value.map(Into::into))])).unwrap();
    }

    /// Flips a bit of a byte of a value.
    fn flip(&self, key: &[u8], byte: usize) {
        let mut value = self.value(key).unwrap().unwrap().to_vec();
        value[byte] ^= 1;
        self.put_raw(key, Some(value));
    }

    /// Whether this process has the store alone, in files of its own.
    pub(crate) fn is_in_files(&self) -> bool {
        matches!(self.engine, Engine::Local(_) | Engine::Fjall(_))
    }

    /// All keys and values.
    pub(crate) fn records(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let records = self.scan(&[], None, usize::MAX).unwrap();
        records.into_iter().map(|(key, value)| (key, value.to_vec())).collect()
    }

    /// How many conflicts the test engine has reported.
    pub(crate) fn conflicts(&self) -> u64 {
        match &self.engine {
            Engine::Test(engine) => engine.conflicts(),
            Engine::Local(_) | Engine::Fjall(_) | Engine::Postgres(_) => 0,
        }
    }

    /// The round trips since the last call, of an engine that counts them. With `forget`, the engine
    /// then has nothing in memory.
    pub(crate) fn take_flights(&self, forget: bool) -> u64 {
        match &self.engine {
            Engine::Test(engine) => engine.take_flights(forget),
            Engine::Local(_) | Engine::Fjall(_) | Engine::Postgres(_) => 0,
        }
    }

    /// Empties the caches.
    pub(crate) fn forget_all(&self) {
        self.caches.nodes.clear();
        self.caches.facts.clear();
        self.caches.bodies.clear();
        self.caches.blocks.clear();
        self.caches.contents.clear();
    }

    pub(crate) fn damage_block(&self, room: RoomNum, event: EventNum) {
        self.flip(&keys::block(room, page_of(event)), 40);
        self.caches.forget_bodies(room);
    }

    pub(crate) fn lose_block(&self, room: RoomNum, event: EventNum) {
        let key = keys::block(room, page_of(event));
        assert!(self.value(&key).unwrap().is_some());
        self.put_raw(&key, None);
        self.caches.forget_bodies(room);
    }

    pub(crate) fn double_body(&self, room: RoomNum, event: EventNum) {
        let body = self.body(room, event).unwrap();
        let key = keys::body(room, event);
        let value = codec::add_checksum(&key, body::encode(&body.event_id, &body.pdu));
        self.put_raw(&key, Some(value));
    }
}

fn open(dir: &Path) -> Result<Store, StoreError> {
    Store::open(&Options::small(dir))
}

fn node(arrival: i64) -> EventNode {
    EventNode {
        depth: 1,
        arrival,
        flags: Flags::default(),
        state_after: None,
        prev_events: vec![PrevEvent::Missing],
    }
}

#[test]
fn committed_and_flushed_records_are_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut edit = store.edit("!a:b", Some("10")).unwrap().unwrap();
    let event = edit.add_event("$one");
    edit.put_body(event, "$one", b"{}");
    edit.put_node(event, node(0)).unwrap();
    edit.put_missing("$zero", event, 0);
    edit.commit().unwrap();
    store.set_erased("@gone:b", true).unwrap();
    store.flush().unwrap();
    drop(store);

    let store = open(dir.path()).unwrap();
    let room = store.room_num("!a:b").unwrap().unwrap();
    assert_eq!(store.room(room).unwrap().next_event, EventNum(1));
    assert_eq!(store.event_num(room, "$one").unwrap(), Some(event));
    assert_eq!(store.body(room, event).unwrap().pdu.as_ref(), b"{}");
    assert_eq!(store.topology(room).node(event).unwrap(), Some(node(0)));
    assert_eq!(store.backward_extremities(room, 9).unwrap(), ["$zero"]);
    assert!(store.is_erased("@gone:b"));
    let next = store.edit("!c:d", Some("10")).unwrap().unwrap();
    assert_ne!(next.room_num(), room);
}

#[test]
fn a_dropped_edit_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut edit = store.edit("!a:b", Some("10")).unwrap().unwrap();
    let event = edit.add_event("$one");
    edit.put_body(event, "$one", b"{}");
    assert_eq!(edit.body(edit.room_num(), event).unwrap().pdu.as_ref(), b"{}");
    drop(edit);
    assert_eq!(store.room_num("!a:b").unwrap(), None);
    assert!(store.edit("!a:b", None).unwrap().is_none());
}

#[test]
fn a_second_process_cannot_open_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    if store.is_in_files() {
        assert!(matches!(open(dir.path()), Err(StoreError::InUse(_))));
    }
    drop(store);
    assert!(open(dir.path()).is_ok());
}

#[test]
fn opening_waits_for_a_store_that_is_closing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).unwrap();
    for _ in 0..20 {
        let closing = thread::spawn(move || drop(store));
        store = open(dir.path()).unwrap();
        closing.join().unwrap();
    }
}

#[test]
fn a_store_with_an_interrupted_snapshot_opens() {
    let dir = tempfile::tempdir().unwrap();
    let open = |dir: &Path| Store::open(&Options::plain(dir.to_owned(), 16 << 20));
    drop(open(dir.path()).unwrap());
    let left_over = dir.path().join("graph/snap.00000000DEADBEEF.generating");
    fs::write(&left_over, b"half a snapshot").unwrap();
    drop(open(dir.path()).unwrap());
    assert!(!left_over.exists());
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let value = codec::add_checksum(&keys::format(), (FORMAT + 1).to_be_bytes().to_vec());
    store.put_raw(&keys::format(), Some(value));
    store.flush().unwrap();
    drop(store);
    let newer = FORMAT + 1;
    let refused = open(dir.path());
    assert!(
        matches!(refused, Err(StoreError::NewerFormat { found, known: FORMAT }) if found == newer)
    );
}

#[test]
fn a_damaged_value_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut edit = store.edit("!a:b", Some("10")).unwrap().unwrap();
    let room = edit.room_num();
    let event = edit.add_event("$one");
    edit.put_body(event, "$one", b"{\"some\":\"thing\"}");
    edit.commit().unwrap();
    let key = keys::body(room, event);
    store.flip(&key, 7);
    let error = store.body(room, event).unwrap_err();
    assert_eq!(error.to_string(), "the store is damaged: body (key 050000000000000000)");
}

fn text(event: u32) -> Vec<u8> {
    // One in ten is too long to share a block.
    let length = if event % 10 == 7 { MAX_MEMBER } else { 300 };
    format!("{{\"number\":{event},\"body\":\"{}\"}}", "x".repeat(length)).into_bytes()
}

/// Appends events to `!a:b`, `in_a_batch` at a time.
fn append(store: &Store, events: std::ops::Range<u32>, in_a_batch: usize) -> RoomNum {
    let events: Vec<u32> = events.collect();
    for batch in events.chunks(in_a_batch) {
        let mut edit = store.edit("!a:b", Some("10")).unwrap().unwrap();
        for number in batch {
            let event_id = format!("${number}");
            let event = edit.add_event(&event_id);
            assert_eq!(event, EventNum(*number));
            edit.put_node(event, node((*number).into())).unwrap();
            edit.put_body(event, &event_id, &text(*number));
        }
        edit.commit().unwrap();
    }
    store.room_num("!a:b").unwrap().unwrap()
}

/// The events whose bodies have records of their own, and those in blocks.
fn places(store: &Store, room: RoomNum) -> (Vec<u32>, Vec<u32>) {
    let next = store.room(room).unwrap().next_event.0;
    let alone = (0..next).filter(|it| store.has_own_body(room, EventNum(*it)).unwrap()).collect();
    let pages = (0..next).step_by(32).map(EventNum);
    let packed = pages.flat_map(|it| store.in_block_of(room, it).unwrap()).map(|it| it.0);
    (alone, packed.collect())
}

#[test]
fn the_edit_that_fills_a_page_packs_it_into_a_block() {
    for in_a_batch in [1, 5, 32, 64, 100] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        append(&store, 0..70, in_a_batch);
        let store = if in_a_batch == 5 {
            // Cached while they were alone, too.
            append(&store, 70..75, 1);
            store.flush().unwrap();
            drop(store);
            open(dir.path()).unwrap()
        } else {
            store
        };
        let room = store.room_num("!a:b").unwrap().unwrap();
        let next = store.room(room).unwrap().next_event.0;
        let (expected_alone, expected_packed): (Vec<u32>, Vec<u32>) =
            (0..next).partition(|it| *it >= 64 || it % 10 == 7);
        assert_eq!(places(&store, room), (expected_alone, expected_packed));
        for event in (0..next).rev() {
            let body = store.body(room, EventNum(event)).unwrap();
            assert_eq!((body.event_id, &body.pdu[..]), (format!("${event}"), &text(event)[..]));
        }
    }
}

#[test]
fn a_body_in_a_block_can_be_replaced_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let room = append(&store, 0..40, 64);
    let pdu = |event| store.body(room, EventNum(event)).map(|it| it.pdu.to_vec());
    assert_eq!(pdu(3).unwrap(), text(3));
    let mut edit = store.edit("!a:b", None).unwrap().unwrap();
    edit.put_body(EventNum(3), "$3", b"{}");
    edit.put_body(EventNum(4), "$4", &vec![b'y'; MAX_MEMBER]);
    edit.put_body(EventNum(7), "$7", b"{\"long\":false}");
    edit.purge_event(EventNum(5), "$5").unwrap();
    assert_eq!(edit.body(room, EventNum(3)).unwrap().pdu.as_ref(), b"{}");
    assert!(edit.body(room, EventNum(5)).is_err());
    assert_eq!(pdu(3).unwrap(), text(3), "not before it is committed");
    edit.commit().unwrap();
    assert_eq!(pdu(3).unwrap(), b"{}");
    assert_eq!(pdu(4).unwrap(), vec![b'y'; MAX_MEMBER]);
    assert!(pdu(5).is_err());
    assert_eq!(pdu(7).unwrap(), b"{\"long\":false}");
    assert_eq!(pdu(6).unwrap(), text(6));
    let (alone, packed) = places(&store, room);
    assert_eq!(alone, [4, 7, 17, 27, 32, 33, 34, 35, 36, 37, 38, 39]);
    assert!(!packed.contains(&4) && !packed.contains(&5) && packed.contains(&3));

    let mut edit = store.edit("!a:b", None).unwrap().unwrap();
    for event in (0..32).filter(|it| *it != 5) {
        edit.purge_event(EventNum(event), &format!("${event}")).unwrap();
    }
    edit.commit().unwrap();
    assert_eq!(places(&store, room), ((32..40).collect(), vec![]));
    assert!(store.value(&keys::block(room, 0)).unwrap().is_none(), "an empty block is no record");
}

#[test]
fn a_page_with_a_damaged_body_is_packed_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let room = append(&store, 0..31, 1);
    let key = keys::body(room, EventNum(9));
    store.flip(&key, 7);
    append(&store, 31..32, 1);
    assert!(store.body(room, EventNum(9)).is_err());
    assert_eq!(places(&store, room).0, [7, 9, 17, 27]);
    assert_eq!(store.body(room, EventNum(31)).unwrap().pdu, text(31));
}

#[test]
fn a_deleted_room_leaves_no_block_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let room = append(&store, 0..40, 64);
    let block = keys::block(room, 0);
    let held = store.read("block", &block, Block::decode).unwrap().unwrap();
    assert!(held.get(EventNum(1)).is_some());
    let deleted = store.delete_room("!a:b").unwrap().unwrap();
    while store.remove_deleted(deleted).unwrap() > 0 {}
    assert!(store.value(&block).unwrap().is_none());
}

#[test]
fn writers_share_a_flush_and_return_after_one_that_covers_their_writes() {
    let flushes = Arc::new(GroupCommit::default());
    let (written, flushed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let barrier = Arc::new(Barrier::new(8));
    let writers: Vec<_> = (0..8)
        .map(|_| {
            let (flushes, barrier) = (Arc::clone(&flushes), Arc::clone(&barrier));
            let (written, flushed) = (Arc::clone(&written), Arc::clone(&flushed));
            thread::spawn(move || {
                barrier.wait();
                for _ in 0..200 {
                    let mine = written.fetch_add(1, Ordering::SeqCst) + 1;
                    flushes
                        .wait(|| {
                            let covers = written.load(Ordering::SeqCst);
                            thread::yield_now();
                            flushed.fetch_max(covers, Ordering::SeqCst);
                            Ok(())
                        })
                        .unwrap();
                    assert!(flushed.load(Ordering::SeqCst) >= mine);
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|it| it.join().unwrap());
}

#[test]
fn a_failed_flush_fails_only_its_caller() {
    let flushes = GroupCommit::default();
    let failure = || Err(StoreError::Engine(EngineError::Failed("full".into())));
    assert!(flushes.wait(failure).is_err());
    assert!(flushes.wait(|| Ok(())).is_ok());
}

proptest! {
    // Each opens a store.
    #![proptest_config(ProptestConfig::with_cases((ProptestConfig::default().cases / 10).max(1)))]

    /// Whatever arrivals callers give, and however they page, a listing is all events in order.
    #[test]
    fn a_listing_returns_all_events_in_order_of_arrival(
        given in prop::collection::vec(prop::option::weighted(0.4, -20i64..60), 1..80),
        limit in 1usize..20,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        let mut expected = Vec::new();
        for (index, arrival) in given.iter().enumerate() {
            let mut edit = store.edit("!a:b", Some("10")).unwrap().unwrap();
            let event = edit.add_event(&format!("${index}"));
            let arrival = arrival.unwrap_or(edit.room.next_arrival);
            edit.room.next_arrival = edit.room.next_arrival.max(arrival + 1);
            edit.put_node(event, node(arrival)).unwrap();
            edit.commit().unwrap();
            expected.push(Arrival { arrival, event });
        }
        expected.sort();
        let room = store.room_num("!a:b").unwrap().unwrap();
        let record = store.room(room).unwrap();
        let mut listed: Vec<Arrival> = Vec::new();
        loop {
            let page = store.by_arrival(room, &record, listed.last().copied(), limit).unwrap();
            if page.is_empty() { break; }
            listed.extend(page);
        }
        prop_assert_eq!(listed, expected);
    }
}

impl Store {
    /// Removes a record of a room, or flips a bit of its value. Returns which, for a message.
    pub(crate) fn damage(&self, number: usize, bit: Option<usize>) -> String {
        let records = self.scan(&[], None, usize::MAX).unwrap();
        let of_rooms = |key: &[u8]| {
            use keys::Parts::{RoomNotServed, Store};
            // In a database the number and the record of a room are one row.
            !matches!(keys::parts(key), Some(Store | RoomNotServed) | None)
                && (self.is_in_files() || !matches!(key, [1 | 2, ..]))
        };
        let records: Vec<_> = records.into_iter().filter(|(key, _)| of_rooms(key)).collect();
        let (key, value) = &records[number % records.len()];
        match bit {
            None => self.put_raw(key, None),
            Some(bit) => {
                let mut value = value.to_vec();
                let bit = bit % (8 * value.len());
                value[bit / 8] ^= 1 << (bit % 8);
                self.put_raw(key, Some(value));
            }
        }
        format!("{key:02x?} {bit:?}")
    }
}

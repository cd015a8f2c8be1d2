//! Every engine against a map, with keys of the store: rooms are made, read and changed by decisions, of
//! which some are out of date.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU32, Ordering},
};

use backscroll_testkit::postgres as testkit;
use proptest::{prelude::*, test_runner::TestRunner};

use super::super::*;
use crate::store::{Options, PostgresPlace, codec::add_checksum, keys};

/// The rooms of a case.
const ROOMS: usize = 3;
/// Kinds of records that rooms have, by the first byte of their keys: at least one of each table.
const KINDS: [u8; 10] = [0x03, 0x04, 0x05, 0x06, 0x09, 0x0c, 0x0d, 0x12, 0x14, 0x16];

/// The cases so far: each has rooms of its own, in a store that all cases share.
static CASES: AtomicU32 = AtomicU32::new(0);

/// What tells a record from the others of its room: the kind, and what follows the room in its key.
type Name = (u8, [u8; 4]);

/// One call of an engine. There are few names, so that calls meet each other's records.
#[derive(Clone, Debug)]
enum Call {
    /// A decision makes the room, or changes it if it was made.
    Decide(Decided),
    /// Records are written whatever is stored.
    Put(usize, Vec<(Name, Option<u8>)>),
    Read(Vec<(usize, Name)>),
    ReadAhead(Vec<(usize, Name)>, Vec<(usize, u8)>),
    Scan {
        room: usize,
        kind: u8,
        after: Option<[u8; 4]>,
        limit: usize,
    },
    /// All records of a kind, a few at a time.
    ScanAllRooms {
        kind: u8,
        limit: usize,
    },
}

#[derive(Clone, Debug)]
struct Decided {
    room: usize,
    changes: Vec<(Name, Option<u8>)>,
    replaces: bool,
    /// Another decision is made between the first read and the commit.
    is_stale: bool,
}

fn kind() -> impl Strategy<Value = u8> {
    prop::sample::select(&KINDS[..])
}

fn rest() -> impl Strategy<Value = [u8; 4]> {
    (0u8..4).prop_map(|it| [0, 0, 1, it])
}

fn name() -> impl Strategy<Value = Name> {
    (kind(), rest())
}

fn call() -> impl Strategy<Value = Call> {
    let room = 0..ROOMS;
    let changes = || prop::collection::vec((name(), prop::option::weighted(0.7, 0u8..4)), 0..6);
    let decided = (room.clone(), changes(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(room, changes, replaces, is_stale)| Decided { room, changes, replaces, is_stale },
    );
    let names = || prop::collection::vec((0..ROOMS, name()), 0..6);
    prop_oneof![
        4 => decided.prop_map(Call::Decide),
        1 => (room.clone(), changes()).prop_map(|(room, changes)| Call::Put(room, changes)),
        3 => names().prop_map(Call::Read),
        1 => (names(), prop::collection::vec((room.clone(), kind()), 0..3))
            .prop_map(|(names, prefixes)| Call::ReadAhead(names, prefixes)),
        2 => (room, kind(), prop::option::of(rest()), 0usize..6)
            .prop_map(|(room, kind, after, limit)| Call::Scan { room, kind, after, limit }),
        1 => (kind(), 1usize..6).prop_map(|(kind, limit)| Call::ScanAllRooms { kind, limit }),
    ]
}

/// A room of a case, as it must be.
struct ModelRoom {
    id: String,
    /// `None` before the room is made.
    number: Option<RoomNum>,
    /// How many decisions were applied: the content of the room's record.
    decisions: u8,
    records: BTreeMap<Name, u8>,
}

impl ModelRoom {
    fn key(&self, (kind, rest): Name) -> Vec<u8> {
        [&self.prefix(kind)[..], &rest].concat()
    }

    fn prefix(&self, kind: u8) -> Vec<u8> {
        [&[kind][..], &self.number.unwrap().0.to_be_bytes()].concat()
    }

    /// A record, as the store writes it.
    fn record(&self, name: Name, content: u8) -> (Vec<u8>, Vec<u8>) {
        let key = self.key(name);
        let value = sealed(&key, content);
        (key, value)
    }

    fn scan(&self, kind: u8, after: Option<[u8; 4]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let is_found = |it: &Name| it.0 == kind && after.is_none_or(|after| it.1 > after);
        let found = self.records.iter().filter(|it| is_found(it.0)).take(limit);
        found.map(|(name, content)| self.record(*name, *content)).collect()
    }

    fn apply(&mut self, changes: &[(Name, Option<u8>)]) {
        for (name, content) in changes {
            match content {
                Some(content) => self.records.insert(*name, *content),
                None => self.records.remove(name),
            };
        }
    }

    fn changes(&self, changes: &[(Name, Option<u8>)]) -> Changes {
        let change = |(name, content): &(Name, Option<u8>)| {
            let key = self.key(*name);
            let value = content.map(|it| sealed(&key, it).into());
            (key, value)
        };
        changes.iter().map(change).collect()
    }
}

fn sealed(key: &[u8], content: u8) -> Vec<u8> {
    add_checksum(key, vec![content; 3])
}

fn plain(records: Records) -> Vec<(Vec<u8>, Vec<u8>)> {
    records.into_iter().map(|(key, value)| (key, value.to_vec())).collect()
}

/// A case: an engine, and what it must hold.
struct Case<'e> {
    engine: &'e Engine,
    rooms: Vec<ModelRoom>,
    /// The number of the next room, in an engine that does not number rooms.
    next: &'e AtomicU32,
}

impl<'e> Case<'e> {
    fn new(engine: &'e Engine, next: &'e AtomicU32) -> Self {
        let case = CASES.fetch_add(1, Ordering::Relaxed);
        let room = |number| ModelRoom {
            id: format!("!{case}-{number}:one.example"),
            number: None,
            decisions: 0,
            records: BTreeMap::new(),
        };
        Self { engine, rooms: (0..ROOMS).map(room).collect(), next }
    }

    /// What is read before a decision, as `Store::decide` reads it.
    fn see(&self, room: usize) -> Seen {
        let room = &self.rooms[room];
        let by_name = keys::room_by_name(&room.id);
        match room.number {
            None => self.engine.see(by_name).unwrap(),
            Some(number) => {
                assert!(self.engine.read(&by_name).unwrap().is_some());
                self.engine.see(keys::room(number)).unwrap()
            }
        }
    }

    fn decide(&mut self, Decided { room, changes, replaces, is_stale }: &Decided) {
        let seen = self.see(*room);
        if *is_stale {
            let other = Decided { room: *room, changes: vec![], replaces: false, is_stale: false };
            self.decide(&other);
        }
        let is_new = seen.value.is_none();
        if self.rooms[*room].number.is_none() {
            let number = self.engine.number_for_new(&self.rooms[*room].id).unwrap();
            let next = || RoomNum(self.next.fetch_add(1, Ordering::Relaxed));
            self.rooms[*room].number = Some(number.unwrap_or_else(next));
        }
        let model = &mut self.rooms[*room];
        let number = model.number.unwrap();
        let mut batch = model.changes(changes);
        let key = keys::room(number);
        let decisions = model.decisions.wrapping_add(1);
        batch.insert(key.clone(), Some(sealed(&key, decisions).into()));
        if is_new {
            let key = keys::room_by_name(&model.id);
            let value = add_checksum(&key, number.0.to_be_bytes().to_vec());
            batch.insert(key, Some(value.into()));
        }
        let effect = if *replaces { Effect::Replaces } else { Effect::Adds };
        match self.engine.commit(Some(&seen), batch, effect).unwrap() {
            Commit::Done => {
                assert!(!is_stale, "a decision that is out of date was applied");
                model.decisions = decisions;
                model.apply(changes);
            }
            Commit::Conflict => assert!(is_stale, "a conflict where there is none"),
        }
    }

    fn call(&mut self, call: &Call) {
        let engine = self.engine;
        let made = |it: &usize| self.rooms[*it].number.is_some();
        match call {
            Call::Decide(decided) => self.decide(decided),
            Call::Put(room, changes) if made(room) => {
                engine.put(self.rooms[*room].changes(changes)).unwrap();
                self.rooms[*room].apply(changes);
            }
            Call::Read(names) => {
                let names: Vec<_> = names.iter().filter(|(room, _)| made(room)).collect();
                let keys: Vec<_> =
                    names.iter().map(|(room, name)| self.rooms[*room].key(*name)).collect();
                let read = engine.read_many(&keys).unwrap();
                assert_eq!(read.len(), names.len());
                for ((room, name), read) in names.into_iter().zip(read) {
                    let room = &self.rooms[*room];
                    let held = room.records.get(name).map(|it| room.record(*name, *it).1);
                    assert_eq!(read.map(|it| it.to_vec()), held, "{name:?}");
                }
            }
            Call::ReadAhead(names, prefixes) => {
                let names = names.iter().filter(|(room, _)| made(room));
                let prefixes = prefixes.iter().filter(|(room, _)| made(room));
                let ahead = Ahead {
                    keys: names.map(|(room, name)| self.rooms[*room].key(*name)).collect(),
                    prefixes: prefixes.map(|(room, it)| self.rooms[*room].prefix(*it)).collect(),
                };
                engine.read_ahead(&ahead).unwrap();
            }
            Call::Scan { room, kind, after, limit } if made(room) => {
                let room = &self.rooms[*room];
                let behind = after.map(|it| room.key((*kind, it)));
                let found = engine.scan(&room.prefix(*kind), behind.as_deref(), *limit).unwrap();
                assert_eq!(plain(found), room.scan(*kind, *after, *limit));
            }
            Call::ScanAllRooms { kind, limit } => self.scan_all_rooms(*kind, *limit),
            Call::Put(..) | Call::Scan { .. } => (),
        }
    }

    /// The rooms have an order of the engine's own, and each room's records are in theirs.
    fn scan_all_rooms(&self, kind: u8, limit: usize) {
        let of_case = |key: &Vec<u8>| {
            self.rooms.iter().any(|it| it.number.is_some() && key.starts_with(&it.prefix(kind)))
        };
        let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = plain(self.engine.scan(&[kind], after.as_deref(), limit).unwrap());
            after = page.last().map(|it| it.0.clone());
            let is_last = page.len() < limit;
            found.extend(page.into_iter().filter(|(key, _)| of_case(key)));
            if is_last {
                break;
            }
        }
        let made = self.rooms.iter().filter(|it| it.number.is_some());
        let expected: BTreeSet<_> = made.flat_map(|it| it.scan(kind, None, usize::MAX)).collect();
        assert_eq!(found.len(), expected.len(), "a record is listed twice, or not at all");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    }

    /// The numbers and records of the rooms are as they must be.
    fn check_rooms(&self) {
        for room in &self.rooms {
            let key = keys::room_by_name(&room.id);
            let read = self.engine.read(&key).unwrap().map(|it| it.to_vec());
            let number = room.number.map(|it| add_checksum(&key, it.0.to_be_bytes().to_vec()));
            assert_eq!(read, number);
            if let Some(number) = room.number {
                let key = keys::room(number);
                let read = self.engine.read(&key).unwrap().map(|it| it.to_vec());
                assert_eq!(read, Some(sealed(&key, room.decisions)));
            }
        }
    }
}

/// Makes random calls of an engine; all cases share its store.
fn check(engine: &Engine) {
    let next = AtomicU32::new(0);
    // A store that others write to as well takes time.
    let cases = (ProptestConfig::default().cases / 4).max(1);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let calls = prop::collection::vec(call(), 0..40);
    let ran = TestRunner::new(config).run(&calls, |calls| {
        let mut case = Case::new(engine, &next);
        for call in &calls {
            case.call(call);
            case.check_rooms();
        }
        (0..ROOMS).for_each(|room| {
            if case.rooms[room].number.is_some() {
                for kind in KINDS {
                    case.call(&Call::Scan { room, kind, after: None, limit: 100 });
                }
            }
        });
        Ok(())
    });
    ran.unwrap();
}

#[test]
fn the_test_engine_keeps_rooms() {
    check(&Engine::Test(TestEngine::new(1, 0)));
}

#[test]
fn the_local_engine_keeps_rooms() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::plain(dir.path().to_owned(), 16 << 20);
    check(&open(dir.path(), &options, |local, _| Ok(Engine::Local(local))).unwrap());
}

#[test]
fn the_fjall_engine_keeps_rooms() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::plain(dir.path().to_owned(), 16 << 20);
    check(&Engine::Fjall(Fjall::open(dir.path(), &options).unwrap()));
}

#[test]
fn the_postgres_engine_keeps_rooms() {
    let Some(server) = testkit::Postgres::start_with(&testkit::Setup::durable()) else { return };
    server.sql("postgres", "create database store");
    let place: PostgresPlace = server.tcp_url("owner", "store").parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(prepare(&place, &Preparation::default())).unwrap();
    let engine = Postgres::open(&place, 1 << 20, Options::STORE_PATIENCE).unwrap();
    check(&Engine::Postgres(engine));
}

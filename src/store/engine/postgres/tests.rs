//! Several stores over one database, in one process: each behaves as the store of another process.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use backscroll_testkit::{
    cutter::Cutter,
    postgres::{Postgres as Server, Setup},
};
use proptest::prelude::*;

use super::{Preparation, prepare};
use crate::store::{
    Decision, Edit, EventNode, EventNum, Flags, Options, Place, RoomNum, Store, StoreError,
    View as _,
    codec::strip_checksum,
    keys::{self, Scope},
};

/// The server of this process's tests; `None` where PostgreSQL is not installed.
fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(|| Server::start_with(&Setup::durable())).as_ref()
}

/// Options for an empty database.
fn empty(server: &Server) -> Options {
    static SCHEMAS: AtomicU32 = AtomicU32::new(0);
    let schema = format!("s{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
    let url = server.tcp_url("owner", "postgres");
    let place: Place = format!("{url}?options=-csearch_path%3D{schema}").parse().unwrap();
    let Place::Postgres(database) = &place else { unreachable!("that is the URL") };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(prepare(database, &Preparation::default())).unwrap();
    Options::of(place, 16 << 20)
}

const ROOMS: [&str; 2] = ["!one:b", "!two:b"];

/// What is done in one room by one of the stores.
#[derive(Clone, Debug)]
enum Step {
    Add { events: u8, text: u8 },
    Replace { event: u8, text: u8 },
    Remove { event: u8 },
    Discard,
    Delete,
    RemoveDeleted,
    Forget,
    Bury,
    Erase { user: u8, is_erased: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u8..40, any::<u8>()).prop_map(|(events, text)| Step::Add { events, text }),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(event, text)| Step::Replace { event, text }),
        3 => any::<u8>().prop_map(|event| Step::Remove { event }),
        1 => Just(Step::Discard),
        1 => Just(Step::Delete),
        1 => Just(Step::RemoveDeleted),
        2 => Just(Step::Forget),
        1 => Just(Step::Bury),
        2 => (0u8..3, any::<bool>()).prop_map(|(user, is_erased)| Step::Erase { user, is_erased }),
    ]
}

/// What a room is: its events by their ids, with their texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Model {
    #[default]
    None,
    Deleted,
    Held {
        given: u32,
        events: BTreeMap<String, Vec<u8>>,
    },
}

fn apply(store: &Store, room_id: &str, step: &Step, model: &mut Model) {
    match step {
        Step::Add { events, text } => {
            let added = store.decide(room_id, Some("10"), |edit| {
                let mut ids = Vec::new();
                for _ in 0..*events {
                    let event_id = format!("$event-{}", edit.room.next_event.0);
                    let event = edit.add_event(&event_id);
                    edit.put_body(event, &event_id, &[*text]);
                    edit.put_node(event, node(event))?;
                    ids.push(event_id);
                }
                Ok::<_, StoreError>(Decision::Commit(ids))
            });
            let Some(ids) = added.unwrap() else {
                assert_eq!(*model, Model::Deleted);
                return;
            };
            if *model == Model::None {
                *model = Model::Held { given: 0, events: BTreeMap::new() };
            }
            let Model::Held { given, events } = model else { panic!("added to a deleted room") };
            for event_id in ids {
                assert_eq!(event_id, format!("$event-{given}"), "numbers have no gaps");
                *given += 1;
                events.insert(event_id, vec![*text]);
            }
        }
        Step::Replace { event, text } => {
            let Some(event_id) = chosen(model, *event) else { return };
            let replaced = store.decide(room_id, None, |edit| {
                let event = edit.event_num(edit.room_num(), &event_id)?.unwrap();
                edit.put_body(event, &event_id, &[*text]);
                Ok::<_, StoreError>(Decision::Commit(()))
            });
            replaced.unwrap().unwrap();
            if let Model::Held { events, .. } = model {
                events.insert(event_id, vec![*text]);
            }
        }
        Step::Remove { event } => {
            let Some(event_id) = chosen(model, *event) else { return };
            let removed = store.decide(room_id, None, |edit| {
                let event = edit.event_num(edit.room_num(), &event_id)?.unwrap();
                edit.remove_event(event, &event_id)?;
                Ok::<_, StoreError>(Decision::Commit(()))
            });
            removed.unwrap().unwrap();
            if let Model::Held { events, .. } = model {
                events.remove(&event_id);
            }
        }
        Step::Discard => {
            let discarded = store.decide(room_id, Some("10"), |edit| {
                edit.add_event("$discarded");
                Ok::<_, StoreError>(Decision::Discard(()))
            });
            discarded.unwrap();
        }
        Step::Delete => {
            let is_held = matches!(model, Model::Held { .. });
            assert_eq!(store.delete_room(room_id).unwrap().is_some(), is_held);
            if is_held {
                *model = Model::Deleted;
            }
        }
        Step::RemoveDeleted => {
            for deleted in store.deleted_rooms().unwrap() {
                while store.remove_deleted(deleted).unwrap() > 0 {}
            }
        }
        Step::Forget => {
            let forgotten = store.forget_deleted_room(room_id).unwrap();
            assert_eq!(forgotten, *model == Model::Deleted);
            if forgotten {
                *model = Model::None;
            }
        }
        Step::Bury => {
            store.bury_room(room_id).unwrap();
            if *model == Model::None {
                *model = Model::Deleted;
            }
        }
        Step::Erase { user, is_erased } => {
            store.set_erased(&format!("@{user}:b"), *is_erased).unwrap();
        }
    }
}

fn node(event: EventNum) -> EventNode {
    EventNode {
        depth: 1,
        arrival: event.0.into(),
        flags: Flags::default(),
        state_after: None,
        prev_events: Vec::new(),
    }
}

fn chosen(model: &Model, event: u8) -> Option<String> {
    let Model::Held { events, .. } = model else { return None };
    events.keys().nth(usize::from(event) % events.len().max(1)).cloned()
}

/// Reads a room as a question does: its number first.
fn read(store: &Store, room_id: &str) -> Model {
    let Some(room) = store.room_num(room_id).unwrap() else {
        return if store.is_deleted(room_id).unwrap() { Model::Deleted } else { Model::None };
    };
    let record = store.room(room).unwrap();
    let mut events = BTreeMap::new();
    for number in 0..record.next_event.0 {
        let event_id = format!("$event-{number}");
        let Some(event) = store.event_num(room, &event_id).unwrap() else { continue };
        assert_eq!(event.0, number);
        let body = store.body(room, event).unwrap();
        assert_eq!(body.event_id, event_id);
        assert!(store.topology(room).node(event).unwrap().is_some());
        events.insert(event_id, body.pdu.to_vec());
    }
    Model::Held { given: record.next_event.0, events }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// What one store has committed, every other one reads, whatever it has in memory.
    #[test]
    fn stores_over_one_database_are_one_store(
        steps in prop::collection::vec((0usize..3, 0usize..2, step(), 0usize..3), 1..40),
    ) {
        let Some(server) = server() else { return Ok(()) };
        let options = empty(server);
        let stores = [(); 3].map(|()| Store::open(&options).unwrap());
        let mut models = [Model::None, Model::None];
        let mut erased = [false; 3];
        for (by, room, step, reader) in &steps {
            let model = &mut models[*room];
            apply(&stores[*by], ROOMS[*room], step, model);
            if let Step::Erase { user, is_erased } = step {
                erased[usize::from(*user)] = *is_erased;
            }
            for (room_id, model) in ROOMS.iter().zip(&models) {
                prop_assert_eq!(&read(&stores[*reader], room_id), model);
            }
            for (user, is_erased) in erased.iter().enumerate() {
                let found = stores[*reader].is_erased(&format!("@{user}:b"));
                prop_assert_eq!(found, *is_erased, "user {}", user);
            }
        }
        for store in &stores {
            for (room_id, model) in ROOMS.iter().zip(&models) {
                prop_assert_eq!(&read(store, room_id), model);
            }
        }
    }
}

/// Adds an event to a room, and returns its number.
fn add_one(store: &Store, room_id: &str, event_id: &str) -> Result<EventNum, StoreError> {
    let added = store.decide(room_id, Some("10"), |edit| add(edit, event_id));
    added.map(|it| it.expect("the room is made"))
}

/// As [`add_one`], but finds the event if it is held.
fn add_once(store: &Store, room_id: &str, event_id: &str) -> Result<EventNum, StoreError> {
    let added = store.decide(room_id, Some("10"), |edit| {
        match edit.event_num(edit.room_num(), event_id)? {
            Some(event) => Ok(Decision::Discard(event)),
            None => add(edit, event_id),
        }
    });
    added.map(|it| it.expect("the room is made"))
}

fn add(edit: &mut Edit<'_>, event_id: &str) -> Result<Decision<EventNum>, StoreError> {
    let event = edit.add_event(event_id);
    edit.put_body(event, event_id, event_id.as_bytes());
    edit.put_node(event, node(event))?;
    Ok(Decision::Commit(event))
}

/// How an event is added to a room.
type AddEvent = fn(&Store, &str, &str) -> Result<EventNum, StoreError>;

/// Lets all stores add `count` events each to one room, at the same time, and checks that every store
/// reads all of them afterwards, each once. `then` runs before they are read.
fn write_at_the_same_time(stores: &[Store], count: usize, add: AddEvent, then: impl FnOnce()) {
    let added: Vec<(EventNum, String)> = thread::scope(|scope| {
        let writers = stores.iter().enumerate().map(|(by, store)| {
            scope.spawn(move || {
                let add = |number| {
                    let event_id = format!("$of-{by}-{number}");
                    loop {
                        match add(store, "!one:b", &event_id) {
                            Ok(event) => break (event, event_id),
                            // All its tries were lost to the others.
                            Err(StoreError::Conflict { .. }) => {}
                            Err(failure) => panic!("{failure}"),
                        }
                    }
                };
                (0..count).map(add).collect::<Vec<_>>()
            })
        });
        let writers: Vec<_> = writers.collect();
        writers.into_iter().flat_map(|it| it.join().unwrap()).collect()
    });
    then();
    let all = stores.len() * count;
    let numbers: BTreeMap<EventNum, String> = added.into_iter().collect();
    assert_eq!(numbers.len(), all, "no number is given twice");
    for store in stores {
        let room = store.room_num("!one:b").unwrap().unwrap();
        let next = store.room(room).unwrap().next_event.0;
        assert_eq!(usize::try_from(next).unwrap(), all, "no event is added twice");
        for (event, event_id) in &numbers {
            assert_eq!(store.event_num(room, event_id).unwrap(), Some(*event));
            assert_eq!(store.body(room, *event).unwrap().pdu, event_id.as_bytes());
        }
    }
}

#[test]
fn stores_that_write_to_one_room_at_the_same_time_lose_nothing() {
    let Some(server) = server() else { return };
    let options = empty(server);
    let stores = [(); 4].map(|()| Store::open(&options).unwrap());
    write_at_the_same_time(&stores, 40, add_one, || {});
}

/// Every commit whose answer was lost is found to be applied, or is never applied.
#[test]
fn commits_whose_answers_are_lost_are_neither_lost_nor_doubled() {
    let Some(server) = server() else { return };
    let Options { place, .. } = empty(server);
    let cutter = Cutter::start(server.address());
    let through = place.to_string().replace(
        &format!(":{}", server.address().port()),
        &format!(":{}", cutter.address().port()),
    );
    let options = Options::of(through.parse().unwrap(), 16 << 20);
    let stores = [(); 3].map(|()| Store::open(&options).unwrap());
    cutter.cut_commits(30, 1);
    write_at_the_same_time(&stores, 25, add_once, || {
        assert!(cutter.cuts() > 5, "{} connections were cut", cutter.cuts());
        cutter.cut_commits(0, 1);
    });
}

/// A change without a condition leaves alone what it does not change, whatever others have done since
/// this store has read the room.
#[test]
fn a_change_without_a_condition_does_not_undo_what_another_store_has_committed() {
    let Some(server) = server() else { return };
    let options = empty(server);
    let [first, second] = [(); 2].map(|()| Store::open(&options).unwrap());
    add_one(&first, "!one:b", "$a").unwrap();
    let room = first.room_num("!one:b").unwrap().unwrap();
    add_one(&second, "!one:b", "$b").unwrap();
    first.put_raw(&keys::given_state(room, EventNum(0)), None);
    for store in [&first, &second] {
        let room = store.room_num("!one:b").unwrap().unwrap();
        assert_eq!(store.room(room).unwrap().next_event, EventNum(2));
    }
    assert_eq!(add_one(&first, "!one:b", "$c").unwrap(), EventNum(2));
}

#[test]
fn a_room_that_another_store_has_replaced_has_another_number() {
    let Some(server) = server() else { return };
    let options = empty(server);
    let [first, second] = [(); 2].map(|()| Store::open(&options).unwrap());
    add_one(&first, "!one:b", "$a").unwrap();
    let number = |store: &Store| -> RoomNum { store.room_num("!one:b").unwrap().unwrap() };
    let before = number(&second);
    add_one(&first, "!one:b", "$b").unwrap();
    assert_eq!(number(&second), before, "something was added");
    let replaced = first.decide("!one:b", None, |edit| {
        edit.put_body(EventNum(0), "$a", b"another");
        Ok::<_, StoreError>(Decision::Commit(()))
    });
    replaced.unwrap();
    let after = number(&second);
    assert_ne!(after, before);
    assert_eq!(first.room_mark(number(&first)), second.room_mark(after));
    // Whoever still has the old number gets nothing that is mixed.
    assert!(matches!(second.body(before, EventNum(1)), Err(StoreError::Missing { .. })));
    assert_eq!(second.body(after, EventNum(0)).unwrap().pdu, b"another".as_slice());
}

/// All records of rooms, each with the id of its room in the place of its number, without checksums.
fn by_room_id(store: &Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = BTreeMap::new();
    let mut found = BTreeMap::new();
    for (key, value) in store.records() {
        let content = strip_checksum(&key, &value).unwrap();
        if let Scope::RoomNumbers(name) = keys::scope(&key) {
            if let Ok(number) = <[u8; 4]>::try_from(content) {
                names.insert(RoomNum(u32::from_be_bytes(number)), name.to_vec());
            }
            found.insert(key.clone(), vec![u8::from(content.is_empty())]);
        }
    }
    for (key, value) in store.records() {
        let Scope::Room { tag, room, rest } = keys::scope(&key) else { continue };
        // Records of deleted rooms are not copied.
        let Some(name) = names.get(&room) else { continue };
        let content = strip_checksum(&key, &value).unwrap().to_vec();
        found.insert([&[tag], name.as_slice(), &[0], rest].concat(), content);
    }
    found
}

#[test]
fn a_store_is_copied_to_a_database_and_back_also_after_an_interruption() {
    let Some(server) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let local = |name: &str| Options::of(Place::Sled(dir.path().join(name)), 16 << 20);
    let source = Store::open(&local("from")).unwrap();
    for room in 0..12 {
        for event in 0..20 * room {
            add_one(&source, &format!("!{room}:b"), &format!("$event-{event}")).unwrap();
        }
        source.bury_room(&format!("!buried-{room}:b")).unwrap();
    }
    source.set_erased("@gone:b", true).unwrap();
    source.delete_room("!3:b").unwrap().unwrap();
    let there = empty(server);
    let copy = Store::open_copy(&there).unwrap();
    let batches = AtomicU32::new(0);
    let interrupted = catch_unwind(AssertUnwindSafe(|| {
        source.copy_into(&copy, &|_| assert!(batches.fetch_add(1, Ordering::Relaxed) < 20))
    }));
    assert!(interrupted.is_err());
    drop(copy);
    assert!(matches!(Store::open(&there).err(), Some(StoreError::BeingCopied(_))));
    // Meanwhile the original has changed.
    source.delete_room("!5:b").unwrap().unwrap();
    source.forget_deleted_room("!5:b").unwrap();
    source.forget_deleted_room("!buried-1:b").unwrap();
    add_one(&source, "!buried-1:b", "$new").unwrap();
    add_one(&source, "!2:b", "$new").unwrap();
    let copy = Store::open_copy(&there).unwrap();
    source.copy_into(&copy, &|_| {}).unwrap();
    assert_eq!(by_room_id(&copy), by_room_id(&source));
    let copy = Store::open(&there).unwrap();
    assert!(copy.is_erased("@gone:b"));
    let back = Store::open_copy(&local("back")).unwrap();
    copy.copy_into(&back, &|_| {}).unwrap();
    assert_eq!(by_room_id(&back), by_room_id(&source));
}

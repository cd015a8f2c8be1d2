//! The real service is killed while writers prune events, sign them again, remove them and append them
//! again. Afterwards each event is as it was written last and acknowledged, or as it was being written.
//! In the end all writes are made again, and each room equals one that was written without kills.
//!
//! `BACKSCROLL_LATE_CRASH_ROUNDS` is the number of rounds, `BACKSCROLL_LATE_CRASH_SEED` repeats a
//! printed seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use backscroll::{
    context::Context,
    ingest::{self, NewEvent, NotesLeft, Replace, Verdict},
    pdu::Pdu,
    proto::v1::{self as pb, append_events_response::Outcome},
    store::{Options, Store},
};
use backscroll_testkit::{Random, random::Rounds};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::Status;

use crate::{
    restart::{FLAGS, kill_while_opening, request, world},
    support::{
        answers,
        clients::{Clients, read_to_end, verdict},
        events::RoomExt as _,
        faults,
        memory::Memory,
        process::Process,
        worlds::{Delivery, World},
    },
};

const ROUNDS: u64 = 5;
const WRITERS: u64 = 3;

/// The id of an event, its bytes, its verdict, and whether it is an outlier.
type Stored = (String, String, i32, bool);

/// A room, what is written to it, and what may be stored of it.
struct Written {
    world: World,
    /// The last bytes of each event.
    finals: BTreeMap<String, String>,
    /// The events that are removed and appended again.
    removed: Vec<String>,
    keep_as_outliers: bool,
    /// The bytes that may be stored of each event; `None` if it may be missing. One entry once a write
    /// of it was acknowledged.
    allowed: BTreeMap<String, BTreeSet<Option<String>>>,
}

/// The redacted form of an event; `None` of an unreadable one.
fn redacted_form(pdu: &str, world: &World) -> Option<String> {
    let pdu = Pdu::parse(pdu.as_bytes(), world.room.known_version()).ok()?;
    let redacted = pdu.redacted().ok()?;
    String::from_utf8(redacted.bytes_as_received().to_vec()).ok()
}

/// The redacted form of an event that may be replaced by it; not of a redaction, which may not name its
/// target any more.
fn pruned(delivery: &Delivery, world: &World) -> Option<String> {
    let text = &delivery.event.pdu;
    let pdu = Pdu::parse(text.as_bytes(), world.room.known_version()).ok()?;
    redacted_form(text, world).filter(|_| pdu.redacts().is_none())
}

fn signed_again(pdu: &str) -> String {
    let mut pdu: Value = serde_json::from_str(pdu).unwrap();
    pdu["signatures"]["one.example"]["ed25519:again"] = json!("c2lnbmVk");
    pdu.to_string()
}

impl Written {
    fn new(random: &mut Random, name: &str) -> Self {
        let world = world(random, name, false);
        let (mut finals, mut removed) = (BTreeMap::new(), BTreeSet::new());
        for delivery in &world.deliveries {
            let event_id = delivery.event.event_id.clone();
            let whole = delivery.event.pdu.clone();
            let other = pruned(delivery, &world).map(|redacted| match random.below(6) {
                0 => redacted,
                1 => signed_again(&whole),
                2 => signed_again(&redacted),
                _ => whole.clone(),
            });
            if random.chance(20) {
                removed.insert(event_id.clone());
            }
            finals.insert(event_id, other.unwrap_or(whole));
        }
        let keep_as_outliers = random.chance(50);
        let removed = removed.into_iter().collect();
        Self { world, finals, removed, keep_as_outliers, allowed: BTreeMap::new() }
    }

    /// Appends the deliveries of some events, whole or in their last form.
    async fn append(
        &mut self,
        clients: &mut Clients,
        is_final: bool,
        is_chosen: impl Fn(&str) -> bool,
    ) -> Result<(), Status> {
        let mut sent = Vec::new();
        let mut requests = Vec::new();
        for delivery in &self.world.deliveries {
            let event_id = delivery.event.event_id.as_str();
            if !is_chosen(event_id) {
                continue;
            }
            let pdu = if is_final { &self.finals[event_id] } else { &delivery.event.pdu };
            let missing = || BTreeSet::from([None]);
            let allowed = self.allowed.entry(event_id.to_owned()).or_insert_with(missing);
            allowed.insert(Some(pdu.clone()));
            requests.push(pb::AppendEventsRequest {
                pdu: pdu.clone().into(),
                replace: pb::Replace::All.into(),
                ..request(&self.world, delivery)
            });
            sent.push((event_id.to_owned(), pdu.clone()));
        }
        let stream = tokio_stream::iter(requests);
        let mut answers = clients.ingest.append_events(stream).await?.into_inner();
        for (event_id, pdu) in sent {
            match answers.message().await?.and_then(|it| it.outcome) {
                Some(Outcome::Appended(_)) => {
                    self.allowed.insert(event_id, BTreeSet::from([Some(pdu)]));
                }
                // An event of the graph does not become an outlier; it is delivered again as placed.
                Some(Outcome::Refusal(it)) if it.reason() == pb::RefusalReason::Conflict => {}
                None => return Err(Status::unavailable("the stream has ended")),
                other => panic!("{event_id}: {other:?}"),
            }
        }
        Ok(())
    }

    async fn remove(&mut self, clients: &mut Clients) -> Result<(), Status> {
        for event_id in &self.removed {
            self.allowed.get_mut(event_id).unwrap().insert(None);
        }
        for target in self.targets() {
            let redacted = redacted_form(&self.finals[&target], &self.world).unwrap();
            self.allowed.get_mut(&target).unwrap().insert(Some(redacted));
        }
        let request = pb::RemoveEventsRequest {
            room_id: self.world.room.room_id.clone(),
            event_ids: self.removed.clone(),
            keep_as_outliers: self.keep_as_outliers,
        };
        let stream = clients.ingest.remove_events(request).await?.into_inner();
        let last = read_to_end(stream).await?.pop().unwrap();
        assert!(last.done, "{last:?}");
        Ok(())
    }

    /// All writes, each after the one before was acknowledged.
    async fn write(&mut self, clients: &mut Clients) -> Result<(), Status> {
        self.append(clients, false, |_| true).await?;
        let finals = self.finals.clone();
        let whole = self.wholes();
        let is_replaced = |it: &str| whole[it] != finals[it];
        self.append(clients, true, is_replaced).await?;
        self.remove(clients).await?;
        let again: BTreeSet<String> = self.removed.iter().cloned().chain(self.targets()).collect();
        self.append(clients, true, |it| again.contains(it)).await
    }

    /// The events that a removed event redacts. When it is removed, they become redacted forms.
    fn targets(&self) -> Vec<String> {
        let whole = self.wholes();
        let targets = self.removed.iter().filter_map(|it| {
            let pdu = Pdu::parse(whole[it].as_bytes(), self.world.room.known_version()).ok()?;
            let target = pdu.redacts()?.as_str().to_owned();
            let is_readable = |it: &String| redacted_form(it, &self.world).is_some();
            whole.get(&target).is_some_and(is_readable).then_some(target)
        });
        targets.collect()
    }

    fn wholes(&self) -> BTreeMap<String, String> {
        let events = self.world.deliveries.iter().map(|it| &it.event);
        events.map(|it| (it.event_id.clone(), it.pdu.clone())).collect()
    }

    /// What is stored in the end.
    fn expected(&self) -> Vec<Stored> {
        // The last delivery of an event decides.
        let last: BTreeMap<&String, &Delivery> =
            self.world.deliveries.iter().map(|it| (&it.event.event_id, it)).collect();
        let stored = self.finals.iter().map(|(event_id, pdu)| {
            let Delivery { verdict: decided, outlier, .. } = last[event_id];
            let is = |it| *decided == it;
            let decided = verdict(is(Verdict::Rejected), is(Verdict::SoftFailed));
            (event_id.clone(), pdu.clone(), decided.into(), *outlier)
        });
        stored.collect()
    }

    /// The events that are not stored as they may be.
    async fn wrong(&self, clients: &mut Clients) -> Vec<String> {
        let ids: Vec<String> = self.allowed.keys().cloned().collect();
        let held = clients.events(&self.world.room.room_id, &ids).await.unwrap_or_default();
        let held: BTreeMap<String, String> = held
            .into_iter()
            .map(|it| (it.event_id, String::from_utf8(it.pdu.to_vec()).unwrap()))
            .collect();
        let is_wrong = |it: &String| !self.allowed[it].contains(&held.get(it).cloned());
        let wrong = ids.into_iter().filter(is_wrong);
        wrong.map(|it| format!("{it}: {:?} {:?}", held.get(&it), self.allowed[&it])).collect()
    }

    /// The room with these writes, without kills, in a store of its own.
    fn undisturbed(&self) -> Memory {
        let memory = Memory::new();
        let append =
            |event: &NewEvent<'_>| drop(ingest::append_unflushed(&memory.cx, event).unwrap());
        let deliveries = &self.world.deliveries;
        deliveries.iter().for_each(|it| append(&it.new_event(&self.world.room)));
        for delivery in deliveries {
            let pdu = self.finals[&delivery.event.event_id].as_bytes();
            let event = delivery.new_event(&self.world.room);
            append(&NewEvent { pdu, replace: Replace::All, ..event });
        }
        settle(&memory.cx, &self.world.room.room_id);
        memory
    }

    /// Compares every state with that of the room without kills.
    fn assert_states(&self, cx: &Context) {
        let expected = self.undisturbed();
        let room_id = &self.world.room.room_id;
        for delivery in self.world.deliveries.iter().filter(|it| !it.outlier) {
            let event_id = &delivery.event.event_id;
            let [found, expected] =
                [cx, &expected.cx].map(|it| answers::state(it, room_id, event_id));
            assert_eq!(found, expected, "state after {event_id} of {room_id}");
        }
    }
}

fn settle(cx: &Context, room_id: &str) {
    ingest::settle_waiting(&cx.store, room_id).unwrap();
    while ingest::work_off(cx).unwrap() != NotesLeft::None {}
}

/// Writes rooms until the service is killed.
async fn write_rooms(mut clients: Clients, name: String, mut random: Random) -> Vec<Written> {
    let mut rooms = Vec::new();
    for number in 0.. {
        let mut room = Written::new(&mut random, &format!("{name}-{number}"));
        let written = room.write(&mut clients).await;
        rooms.push(room);
        if written.is_err() {
            break;
        }
    }
    rooms
}

/// Verifies a store that no process has open, and does the work that is left in it.
fn assert_no_faults(data_dir: &Path, seed: u64) -> Context {
    let store = Store::open(&Options::small(data_dir)).unwrap();
    let mut found = faults::of(&store);
    let left = ingest::recover(&store).unwrap();
    let cx = Context::new(store);
    left.iter().for_each(|it| settle(&cx, it));
    found.extend(faults::of(&cx.store));
    assert!(found.is_empty(), "seed {seed}: {found:?}");
    cx
}

async fn round(data_dir: &Path, name: u64, seed: u64, rooms: &mut Vec<Written>) {
    let mut random = Random::new(seed);
    let service = Process::start(data_dir, &FLAGS);
    let clients = Clients::connect(&service).await;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let name = format!("{name}-{writer}");
        writers.spawn(write_rooms(clients.clone(), name, Random::new(random.below(u64::MAX))));
    }
    tokio::time::sleep(Duration::from_millis(50 + random.below(800))).await;
    service.kill();
    rooms.extend(writers.join_all().await.into_iter().flatten());
    for _ in 0..random.below(3) {
        kill_while_opening(data_dir, Duration::from_millis(random.below(40)));
    }
    let service = Process::start(data_dir, &FLAGS);
    let mut clients = Clients::connect(&service).await;
    for room in &*rooms {
        let wrong = room.wrong(&mut clients).await;
        assert!(wrong.is_empty(), "seed {seed}: {wrong:?} of {}", room.world.room.room_id);
    }
    service.kill();
    assert_no_faults(data_dir, seed);
}

/// All writes are made again; then each room has its last writes and nothing else.
async fn finish(data_dir: &Path, seed: u64, rooms: &mut [Written]) {
    let service = Process::start(data_dir, &FLAGS);
    let mut clients = Clients::connect(&service).await;
    for room in &mut *rooms {
        room.write(&mut clients).await.unwrap();
        let (_, held) = clients.room(&room.world.room.room_id).await.unwrap();
        let mut found: Vec<Stored> = held
            .into_iter()
            .map(|it| {
                let pdu = String::from_utf8(it.pdu.to_vec()).unwrap();
                (it.event_id, pdu, it.verdict, it.outlier)
            })
            .collect();
        found.sort();
        assert_eq!(found, room.expected());
    }
    service.kill();
    let cx = assert_no_faults(data_dir, seed);
    rooms.iter().for_each(|it| it.assert_states(&cx));
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_and_removed_events_are_as_written_when_the_service_is_killed() {
    let Rounds { count, seed } = Rounds::of("LATE_CRASH", ROUNDS);
    let mut random = Random::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let mut rooms = Vec::new();
    for name in 0..count {
        round(&data_dir, name, random.below(u64::MAX), &mut rooms).await;
    }
    let cut_off = rooms.iter().filter(|it| it.allowed.values().any(|it| it.len() > 1)).count();
    println!("{count} kills, {} rooms, {cut_off} of them cut off in a write", rooms.len());
    assert!(cut_off > 0, "no kill interrupted a write");
    finish(&data_dir, seed, &mut rooms).await;
}

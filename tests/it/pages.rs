//! Rooms of the largest events, in several scripts and encodings, read page by page from end to end
//! through both services and both endpoints. Each page fits the default limits of gRPC clients, and
//! continuing from the oldest event of a page misses no event.

use backscroll::{
    context::Context,
    ingest::{self, BatchOutcome, NewEvent, Outcome},
    pdu::{Pdu, RoomVersion},
    query::{
        BatchGetEvents, GetState, ListErasedUsers, ListStateAfter, PageRequest, QueryError,
        RoomEvents,
    },
};
use backscroll_testkit::{Event, Federation, FederationRequest, Room};
use serde_json::{Value, json};

use crate::support::{answers, events::RoomExt as _, memory::Memory, rooms, services::Services};

const ALICE: &str = "@alice:hs1.example:9101";
const BOB: &str = "@bob:hs2.example:9102";
const HOME: &str = "hs1.example:9101";
const PEER: &str = "hs2.example:9102";
/// The size limit of an event in canonical form.
const MAX_PDU: usize = 65_536;
/// The number of large events in a room: enough for several pages.
const LARGE: usize = 26;

/// A script and its encoding in JSON.
struct Script {
    name: &'static str,
    version: RoomVersion,
    letter: char,
    write: fn(&str) -> String,
}

fn raw(text: &str) -> String {
    text.to_owned()
}

/// The encoding of Synapse's database: each character outside ASCII as hexadecimal UTF-16.
fn ascii_only(text: &str) -> String {
    escaped(text, |it| !it.is_ascii())
}

/// The largest encoding that is allowed: each character escaped.
fn every_letter(text: &str) -> String {
    escaped(text, |it| it == 'x')
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let mut written = String::with_capacity(6 * text.len());
    for letter in text.chars() {
        if is_escaped(letter) {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                written.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            written.push(letter);
        }
    }
    written
}

const SCRIPTS: [Script; 9] = {
    use RoomVersion::{V1, V6, V10, V12};
    [
        Script { name: "ASCII", version: V10, letter: 'y', write: raw },
        Script { name: "ASCII, escaped", version: V10, letter: 'x', write: every_letter },
        Script { name: "ASCII, escaped, version 1", version: V1, letter: 'x', write: every_letter },
        Script { name: "Cyrillic", version: V10, letter: 'ж', write: raw },
        Script { name: "Cyrillic, escaped", version: V6, letter: 'ж', write: ascii_only },
        Script { name: "Chinese, escaped", version: V12, letter: '語', write: ascii_only },
        Script { name: "emoji", version: V12, letter: '🦀', write: raw },
        Script { name: "emoji, escaped", version: V10, letter: '🦀', write: ascii_only },
        Script { name: "U+0000", version: V10, letter: '\0', write: raw },
    ]
};

/// Makes a room whose messages have the maximal size.
fn large_room(script: &Script) -> (Room, Vec<Event>) {
    let Script { version, letter, write, .. } = script;
    let (room, create) = Room::new(*version, ALICE);
    let mut events = vec![create];
    for user in [ALICE, BOB] {
        events.push(room.member(user, user, "join").after(events.last()).finish());
    }
    // The size of one character in canonical form.
    let bytes = Value::from(letter.to_string()).to_string().len() - 2;
    for _ in 0..LARGE {
        let short = room.message(BOB, "").after(events.last()).finish();
        // The numbers of the next event may have one more digit.
        let letters = (MAX_PDU - short.pdu.len() - 2) / bytes;
        let message = room.message(BOB, &letter.to_string().repeat(letters));
        let mut event = message.after(events.last()).finish();
        assert!(event.pdu.len() > MAX_PDU - 32, "{}: {}", script.name, event.pdu.len());
        event.pdu = write(&event.pdu);
        let read = Pdu::parse(event.pdu.as_bytes(), *version).unwrap();
        assert_eq!(*read.event_id(), *event.event_id);
        events.push(event);
    }
    (room, events)
}

/// Sends a request; returns the PDUs of its response, whose status must be 200.
async fn pdus(
    federation: &Federation,
    services: &Services,
    uri: &str,
    content: Option<&Value>,
    name: &str,
) -> Vec<String> {
    let method = if content.is_some() { "POST" } else { "GET" };
    let request = FederationRequest { origin: PEER, destination: HOME, method, uri, content };
    let answer = federation.send(services.gateway, request).await;
    assert_eq!(answer.status.as_u16(), 200, "{name}: {:?}", answer.body);
    assert!(answer.body.len() < 4 << 20, "{name}: {} bytes", answer.body.len());
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(alias = "events")]
        pdus: Vec<Box<serde_json::value::RawValue>>,
    }
    let body: Body = serde_json::from_slice(&answer.body).unwrap();
    body.pdus.iter().map(|it| it.get().to_owned()).collect()
}

fn encoded(id: &str) -> String {
    id.bytes().map(|it| format!("%{it:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_of_the_largest_events_are_paged_through_from_end_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let keys = rooms::keys();
    let services = Services::start(dir.path(), HOME, &keys.server).await;
    let federation = Federation::from_json(&keys.signing);
    for script in &SCRIPTS {
        let (room, events) = large_room(script);
        for event in &events {
            // Each room has an id of its own.
            let outcome = ingest::append_unflushed(&services.cx, &room.accepted(event)).unwrap();
            assert!(matches!(outcome, Outcome::Appended { .. }), "{}: {outcome:?}", script.name);
        }
        let room_id = encoded(&room.room_id);
        let id_of = |pdu: &str| Pdu::parse(pdu.as_bytes(), room.known_version()).unwrap();
        let expected: Vec<&str> = events.iter().rev().map(|it| it.pdu.as_str()).collect();
        let newest = &events.last().unwrap().event_id;

        // Newest first. Each page begins with the last event of the page before.
        let (mut read, mut start, mut pages): (Vec<String>, _, _) = (Vec::new(), newest.clone(), 0);
        while read.len() < events.len() {
            let path = format!("/_matrix/federation/v1/backfill/{room_id}");
            let uri = format!("{path}?v={}&limit=100", encoded(&start));
            let page = pdus(&federation, &services, &uri, None, script.name).await;
            assert!(page.len() > 1, "{}: a page does not continue", script.name);
            let known = usize::from(pages > 0);
            read.extend(page.into_iter().skip(known));
            start = id_of(read.last().unwrap()).event_id().to_string();
            pages += 1;
        }
        assert_eq!(read, expected, "{}", script.name);
        assert!(pages <= 10, "{}: {pages} pages", script.name);

        // Oldest first. Each page ends before the first event of the page before.
        let (mut read, mut latest) = (Vec::new(), newest.clone());
        loop {
            let uri = format!("/_matrix/federation/v1/get_missing_events/{room_id}");
            let content = json!({"earliest_events": [], "latest_events": [latest], "limit": 20});
            let mut page = pdus(&federation, &services, &uri, Some(&content), script.name).await;
            let Some(oldest) = page.first() else { break };
            // The page is connected to the event from which it was requested.
            let newest = id_of(page.last().unwrap()).event_id().to_string();
            let asked_from = events.iter().position(|it| it.event_id == latest).unwrap();
            assert_eq!(newest, events[asked_from - 1].event_id, "{}", script.name);
            latest = id_of(oldest).event_id().to_string();
            page.reverse();
            read.append(&mut page);
        }
        assert_eq!(read, expected[1..], "{}", script.name);

        tokio::task::block_in_place(|| services.cx.store.delete_room(&room.room_id)).unwrap();
        services.cx.store.forget_deleted_room(&room.room_id).unwrap();
    }
    services.stop().await;
}

/// `BatchGetEvents` says how many ids it has processed; the test continues with the others.
#[test]
fn batch_get_events_returns_the_number_of_processed_ids() {
    let memory = Memory::new();
    let (room, events) = large_room(&SCRIPTS[1]);
    for event in &events {
        ingest::append_unflushed(&memory.cx, &room.accepted(event)).unwrap();
    }
    let mut ids: Vec<String> = events.iter().map(|it| it.event_id.clone()).collect();
    ids.insert(9, "$none".to_owned());
    ids.extend((0..2_000).map(|it| format!("${it}{}", "é".repeat(250))));
    let (mut left, mut found, mut missing) = (&ids[..], Vec::new(), Vec::new());
    while !left.is_empty() {
        let answer = batch(&memory.cx, &room.room_id, left).unwrap();
        assert_eq!(answer.events.len() + answer.missing_event_ids.len(), answer.looked_at);
        assert!(answer.looked_at > 0);
        let bytes: usize = answer.events.iter().map(|it| it.pdu.len()).sum();
        let ids: usize = answer.missing_event_ids.iter().map(String::len).sum();
        assert!(bytes + ids <= 2 << 20);
        found.extend(answer.events.into_iter().map(|it| it.event_id));
        missing.extend(answer.missing_event_ids);
        left = &left[answer.looked_at..];
    }
    let (expected, unknown): (Vec<String>, Vec<String>) =
        ids.into_iter().partition(|it| events.iter().any(|event| event.event_id == *it));
    assert_eq!((found, missing), (expected, unknown));
    let none = vec!["$".repeat(2_000)];
    let refused = batch(&memory.cx, &room.room_id, &none);
    assert!(matches!(refused, Err(QueryError::EventIdInvalid)));
}

fn batch(cx: &Context, room_id: &str, event_ids: &[String]) -> Result<RoomEvents, QueryError> {
    let (room_id, event_ids) = (room_id.to_owned(), event_ids.to_vec());
    answers::ask(cx, &BatchGetEvents { room_id, event_ids })
}

/// Lists all events, and the whole given state of one, page by page.
#[test]
fn lists_of_large_items_are_cut_and_continue() {
    let memory = Memory::new();
    let (room, create) = Room::new(RoomVersion::V1, ALICE);
    let mut events = vec![create];
    events.push(room.member(ALICE, ALICE, "join").after(events.last()).finish());
    // The largest type and state key that older room versions allow.
    let long = |it: usize| format!("{it:05}{}", "€".repeat(249));
    let entries = 3_000;
    for nth in 0..entries {
        let id = format!("${nth:05}{}:a", "€".repeat(247));
        let state = room.state(ALICE, &format!("t{}", "€".repeat(254)), &long(nth), json!({}));
        events.push(state.after(events.last()).with("event_id", json!(id)).finish());
    }
    append(&memory, &room, &events);
    let of_all = |list: &dyn Fn(&str) -> (usize, usize, String)| {
        let (mut count, mut token, mut pages) = (0, String::new(), 0);
        loop {
            let (items, bytes, next) = list(&token);
            assert!(bytes <= 2 << 20, "{bytes} bytes");
            count += items;
            token = next;
            pages += 1;
            if token.is_empty() {
                return (count, pages);
            }
        }
    };
    let (cx, room_id) = (&memory.cx, room.room_id.as_str());
    let state = of_all(&|token| {
        let page = PageRequest { size: 10_000, token: token.to_owned() };
        let question = GetState { room_id: room_id.to_owned(), event_id: String::new(), page };
        let page = answers::ask(cx, &question).unwrap();
        let bytes = page.entries.iter();
        let bytes = bytes.map(|it| it.event_type.len() + it.state_key.len() + it.event_id.len());
        (page.entries.len(), bytes.sum(), page.next_page_token)
    });
    assert_eq!(state, (entries + 2, 4));

    // An event with a missing predecessor and this given state.
    let island = room.message(ALICE, "here").after_id("$nowhere:one.example").finish();
    let mut ids: Vec<String> = events.iter().map(|it| it.event_id.clone()).collect();
    let given = NewEvent { state_after: &ids, ..room.accepted(&island) };
    assert!(matches!(ingest::append_unflushed(cx, &given).unwrap(), Outcome::Appended { .. }));
    let listed = batch(cx, room_id, std::slice::from_ref(&island.event_id));
    let [event] = &listed.unwrap().events[..] else { panic!("the event is stored") };
    let (mut read, mut token) = (event.state_after.clone(), event.state_after_token.clone());
    assert!(read.len() < ids.len(), "the first response is cut");
    while !token.is_empty() {
        let question = ListStateAfter {
            room_id: room_id.to_owned(),
            event_id: island.event_id.clone(),
            page: PageRequest { size: 10_000, token },
        };
        let page = answers::ask(cx, &question).unwrap();
        assert!(page.ids.iter().map(String::len).sum::<usize>() <= 2 << 20);
        read.extend(page.ids);
        token = page.next_page_token;
    }
    read.sort();
    ids.sort();
    assert_eq!(read, ids);

    for nth in 0..entries {
        cx.store.set_erased(&format!("@{nth:05}{}:a", "€".repeat(240)), true).unwrap();
    }
    let erased = of_all(&|token| {
        let page = PageRequest { size: 10_000, token: token.to_owned() };
        let page = answers::ask(cx, &ListErasedUsers { page }).unwrap();
        (page.ids.len(), page.ids.iter().map(String::len).sum(), page.next_page_token)
    });
    assert_eq!(erased, (entries, 2));
}

#[test]
fn get_room_lists_at_most_1000_forward_extremities() {
    let memory = Memory::new();
    let (room, create) = Room::new(RoomVersion::V10, ALICE);
    let joined = room.member(ALICE, ALICE, "join").after([&create]).finish();
    let ends: Vec<Event> = (0..1_200)
        .map(|it| room.message(ALICE, &it.to_string()).after([&joined]).finish())
        .collect();
    let events: Vec<Event> = [create, joined].into_iter().chain(ends).collect();
    append(&memory, &room, &events);
    let summary = answers::room(&memory.cx, &room.room_id).unwrap();
    assert_eq!(summary.forward_extremities.len(), 1_000);
    assert_eq!(summary.forward_extremity_count, 1_200);
}

fn append(memory: &Memory, room: &Room, events: &[Event]) {
    let events: Vec<NewEvent<'_>> = events.iter().map(|it| room.accepted(it)).collect();
    let BatchOutcome { outcomes, failure } = ingest::append_all(&memory.cx, &events);
    assert!(failure.is_none(), "{failure:?}");
    let taken = |it: &&Outcome| matches!(it, Outcome::Appended { duplicate: false, .. });
    assert_eq!(outcomes.iter().filter(taken).count(), events.len(), "{:?}", outcomes.last());
}

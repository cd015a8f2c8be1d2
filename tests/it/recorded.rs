//! Every recorded request gets the expected response: through the real gateway, with real signatures,
//! from a store that the real write path filled. Also the state after every recorded event.
//!
//! `cargo test --release --test it recorded -- --nocapture` prints the counts.

use std::collections::BTreeMap;

use backscroll::{
    context::Context,
    query::{GetState, PageRequest, StateEntry},
    store::{Options, Store},
};
use backscroll_testkit::{Federation, FederationRequest};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::{
    answers,
    load::append_room,
    rooms::{self, RecordedRoom, Request},
    services::Services,
};

/// The number of requests with the expected response, and of all requests, by kind.
#[derive(Default)]
pub(crate) struct Tally(BTreeMap<String, (u32, u32)>);

impl Tally {
    /// Counts a request of a kind.
    fn count(&mut self, reason: &str, good: bool) {
        let (as_expected, all) = self.0.entry(reason.to_owned()).or_default();
        *as_expected += u32::from(good);
        *all += 1;
    }

    /// Counts a request in all kinds to which it belongs.
    pub(crate) fn add(&mut self, request: &Request, good: bool) {
        self.count("all requests", good);
        for reason in &request.differs {
            self.count(&format!("  unlike Synapse: {reason}"), good);
        }
        if request.differs.is_empty() {
            self.count("  as Synapse answered", good);
        }
    }

    pub(crate) fn print(&self) {
        for (reason, (good, all)) in &self.0 {
            println!("{good:5} of {all:5} {reason}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_gets_the_expected_response() {
    let (rooms, keys) = (rooms::all(), rooms::keys());
    let federation = Federation::from_json(&keys.signing);
    let mut tally = Tally::default();
    let mut wrong = Vec::new();
    // Two servers have different versions of the same room: each server needs a store of its own.
    for (server, rooms) in by_destination(&rooms) {
        let dir = tempfile::tempdir().unwrap();
        let services = Services::start(dir.path(), server, &keys.server).await;
        for room in &rooms {
            append_room(&services.cx, room);
        }
        for (room, request) in rooms.iter().flat_map(|it| it.requests.iter().map(move |r| (it, r)))
        {
            let sent = FederationRequest {
                origin: &request.origin,
                destination: &request.destination,
                method: &request.method,
                uri: &request.uri,
                content: request.content.as_ref(),
            };
            let answer = federation.send(services.gateway, sent).await;
            let fault = fault(room, request, answer.status.as_u16(), &answer.body);
            tally.add(request, fault.is_none());
            wrong.extend(fault.map(|it| format!("{} {}: {it}", room.name, request.uri)));
        }
        services.stop().await;
    }
    println!("answered as expected, through the gateway, over {} rooms:", rooms.len());
    tally.print();
    assert!(wrong.is_empty(), "{} differ, such as:\n{}", wrong.len(), first(&wrong));
}

pub(crate) fn first(lines: &[String]) -> String {
    lines.iter().take(10).map(|it| format!("{it}\n")).collect()
}

pub(crate) fn by_destination(rooms: &[RecordedRoom]) -> BTreeMap<&str, Vec<&RecordedRoom>> {
    let mut servers: BTreeMap<&str, Vec<&RecordedRoom>> = BTreeMap::new();
    for room in rooms {
        servers.entry(&room.requests[0].destination).or_default().push(room);
    }
    servers
}

/// The difference between a response and the expected one; `None` if there is none.
pub(crate) fn fault(
    room: &RecordedRoom,
    request: &Request,
    status: u16,
    body: &[u8],
) -> Option<String> {
    let expected = &request.expected;
    if status != expected.status {
        return Some(format!("status {status}, not {}", expected.status));
    }
    let answer: Value = serde_json::from_slice(body).unwrap();
    if let Some(errcode) = &expected.errcode {
        let given = answer["errcode"].as_str();
        return (given != Some(errcode)).then(|| format!("errcode {given:?}, not {errcode}"));
    }
    let member = if request.method == "GET" { "pdus" } else { "events" };
    if request.method == "GET" && answer["origin"] != request.destination.as_str() {
        return Some(format!("origin {}", answer["origin"]));
    }
    let hashes: Vec<String> = pdus(room, body, member).iter().map(|it| sha256(it)).collect();
    if hashes.len() != expected.events.len() {
        return Some(format!("{} events, not {}", hashes.len(), expected.events.len()));
    }
    // The hash identifies the event and its form.
    for (place, ((event_id, form, hash), given)) in expected.events.iter().zip(&hashes).enumerate()
    {
        if hash.as_ref().is_some_and(|it| it != given) {
            return Some(format!("event {place} is not {event_id} in form {form}"));
        }
    }
    None
}

/// The PDUs of a response, each in canonical form.
fn pdus(room: &RecordedRoom, body: &[u8], member: &str) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow, default)]
        pdus: Vec<&'a serde_json::value::RawValue>,
        #[serde(borrow, default)]
        events: Vec<&'a serde_json::value::RawValue>,
    }
    let envelope: Envelope<'_> = serde_json::from_slice(body).unwrap();
    let raw = if member == "pdus" { envelope.pdus } else { envelope.events };
    let version = backscroll::pdu::RoomVersion::parse(&room.header.room_version).unwrap();
    let canonical = |it: &&serde_json::value::RawValue| {
        assert!(!it.get().contains("\"unsigned\":{"), "`unsigned` is never served");
        backscroll::pdu::Pdu::parse(it.get().as_bytes(), version).unwrap().canonical_json()
    };
    raw.iter().map(canonical).collect()
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|it| format!("{it:02x}")).collect()
}

#[test]
fn the_state_after_every_event_equals_that_of_the_homeserver() {
    let rooms = rooms::all();
    let (mut equal, mut wrong) = (0, Vec::new());
    for room in &rooms {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { cache_bytes: 16 << 20, ..Options::small(dir.path()) };
        let cx = Context::new(Store::open(&options).unwrap());
        append_room(&cx, room);
        for (event_id, hash) in &room.states {
            if state_hash(&cx, &room.header.room_id, event_id) == *hash {
                equal += 1;
            } else {
                wrong.push(format!("{} {event_id}", room.name));
            }
        }
    }
    println!(
        "state after the event equal to the homeserver's: {equal} events, {} not",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", first(&wrong));
}

fn state_hash(cx: &Context, room_id: &str, event_id: &str) -> String {
    let question = GetState {
        room_id: room_id.to_owned(),
        event_id: event_id.to_owned(),
        page: PageRequest::first(10_000),
    };
    let page = answers::ask(cx, &question).unwrap();
    assert!(page.next_page_token.is_empty());
    let entries = page.entries.iter();
    let line = |it: &StateEntry| state_line([&it.event_type, &it.state_key, &it.event_id]);
    hash_of_state(entries.map(line).collect())
}

/// A line of the text whose hash is recorded: the type, the state key and the id of an event.
pub(crate) fn state_line(entry: [&str; 3]) -> String {
    format!("{}\n", entry.join("\0"))
}

/// The hash that is recorded of a state.
pub(crate) fn hash_of_state(mut lines: Vec<String>) -> String {
    lines.sort();
    sha256(&lines.concat())
}

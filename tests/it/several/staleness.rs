//! What one service has acknowledged, another heeds at once, whatever it has in memory: redactions, bans,
//! erasures, purges, removals, deletions, and rooms that are not served.
//!
//! `BACKSCROLL_STALE_ROUNDS` is the number of tries, `BACKSCROLL_STALE_SEED` repeats a printed seed.

use std::collections::BTreeMap;

use backscroll::proto::v1::{self as pb, append_events_response::Outcome};
use backscroll_testkit::{Event, Random, Room, random::Rounds};
use tonic::{Code, Status};

use super::{assert_verified, servers::Servers, start};
use crate::support::{
    clients::{Clients, request},
    failures::{all, requester},
};

const SERVICES: usize = 2;
/// Tries between two deaths of the primary.
const TRIES_A_PRIMARY: u64 = 40;
/// The primary dies at most this often in one run: each time takes seconds.
const MAX_DEATHS: u64 = 20;
const ALICE: &str = "@alice:one.example";
const CAROL: &str = "@carol:two.example";
/// What messages contain, and redacted messages do not.
const SAID: &str = "what was said";

/// What one service is told and another must heed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Message,
    Redaction,
    BanRedaction,
    Erasure,
    Removal,
    Purge,
    NotServed,
    Deletion,
    ServerKeys,
}

const CHANGES: [Change; 9] = [
    Change::Message,
    Change::Redaction,
    Change::BanRedaction,
    Change::Erasure,
    Change::Removal,
    Change::Purge,
    Change::NotServed,
    Change::Deletion,
    Change::ServerKeys,
];

/// A room with a message of each of two users, one of whom says something only here.
struct TryRoom {
    room: Room,
    events: Vec<Event>,
    user: String,
}

impl TryRoom {
    fn new(number: u64) -> Self {
        let user = format!("@user{number}:one.example");
        let (room, create) = Room::named("10", ALICE, &format!("try{number}"));
        let mut events = vec![create];
        for user in [ALICE, &user] {
            events.push(room.member(user, user, "join").after(events.last()).finish());
        }
        for user in [ALICE, &user, ALICE, &user] {
            events.push(room.message(user, SAID).after(events.last()).finish());
        }
        // Her server was not there when the messages were sent: erasure is about such servers.
        events.push(room.member(CAROL, CAROL, "join").after(events.last()).finish());
        Self { room, events, user }
    }

    fn last(&self) -> &Event {
        self.events.last().unwrap()
    }

    /// A message of the user who says something only here; another is before it.
    fn said(&self) -> &Event {
        &self.events[self.events.len() - 4]
    }
}

/// What a service answers about a message.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// It is served in full.
    Full,
    /// It is served without its content.
    Redacted,
    /// It is not served.
    Absent,
    /// The request was refused.
    Refused(Code),
}

/// What a service serves of an event to another server that asks for the newest events.
async fn served(clients: &mut Clients, it: &TryRoom, newest: &str, event: &Event) -> Answer {
    let request = pb::BackfillRequest {
        room_id: it.room.room_id.clone(),
        requester: requester("two.example"),
        event_ids: vec![newest.to_owned()],
        limit: Some(20),
        ..pb::BackfillRequest::default()
    };
    let answer = match clients.history.backfill(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Answer::Refused(status.code()),
    };
    let ids = answer.event_ids.iter();
    let Some(at) = ids.clone().position(|it| *it == event.event_id) else { return Answer::Absent };
    let pdus: Vec<serde_json::Value> = serde_json::from_slice(&answer.pdus).unwrap();
    let is_full = pdus[at]["content"]["body"] == SAID;
    assert_eq!(is_full, answer.forms[at] == i32::from(pb::EventForm::Full));
    if is_full { Answer::Full } else { Answer::Redacted }
}

async fn append(clients: &mut Clients, room: &Room, events: &[&Event]) {
    let requests = events.iter().map(|it| request(room, &it.pdu)).collect();
    for answer in clients.append(requests).await.unwrap() {
        assert!(matches!(answer.outcome, Some(Outcome::Appended(_))), "{answer:?}");
    }
}

/// Tells a service something about a room; it has acknowledged it when this returns.
async fn tell(clients: &mut Clients, it: &mut TryRoom, change: Change) -> Result<(), Status> {
    let room_id = it.room.room_id.clone();
    let said = it.said().event_id.clone();
    match change {
        Change::Message => {
            let event = it.room.message(CAROL, SAID).after([it.last()]).finish();
            append(clients, &it.room, &[&event]).await;
            it.events.push(event);
        }
        Change::Redaction => {
            let event = it.room.redaction(ALICE, &said).after([it.last()]).finish();
            append(clients, &it.room, &[&event]).await;
        }
        Change::BanRedaction => {
            let (user_id, ban_event_id) = (it.user.clone(), "$ban".to_owned());
            let before_arrival = None;
            let request =
                pb::SetBanRedactionRequest { room_id, user_id, ban_event_id, before_arrival };
            clients.ingest.set_ban_redaction(request).await?;
        }
        Change::Erasure => {
            let request = pb::SetUserErasedRequest { user_id: it.user.clone(), erased: true };
            clients.ingest.set_user_erased(request).await?;
        }
        Change::Removal => {
            let (event_ids, keep_as_outliers) = (vec![said], false);
            let request = pb::RemoveEventsRequest { room_id, event_ids, keep_as_outliers };
            all(clients.ingest.remove_events(request).await).await?;
        }
        Change::Purge => {
            let event_id = it.last().event_id.clone();
            let request = pb::PurgeHistoryRequest { room_id, event_id, may_return: false };
            all(clients.ingest.purge_history(request).await).await?;
        }
        Change::NotServed => {
            let not_served_reason = pb::NotServedReason::PartialState.into();
            let request = pb::SetRoomsServedRequest { room_ids: vec![room_id], not_served_reason };
            clients.ingest.set_rooms_served(request).await?;
        }
        Change::Deletion => {
            let request = pb::DeleteRoomRequest { room_id, may_return: true };
            all(clients.ingest.delete_room(request).await).await?;
        }
        Change::ServerKeys => unreachable!("keys are about no room"),
    }
    Ok(())
}

/// Checks that another service heeds what one has acknowledged.
async fn check(clients: &mut Clients, it: &TryRoom, change: Change) {
    let (newest, said) = (it.last().event_id.clone(), it.said().clone());
    let expected = match change {
        // The newest event is the new one: it is held, and what it follows is served.
        Change::Message => Answer::Full,
        Change::Redaction | Change::BanRedaction | Change::Erasure => Answer::Redacted,
        Change::Purge => Answer::Absent,
        // What follows a removed event has no known state any more.
        Change::Removal | Change::NotServed | Change::Deletion => {
            Answer::Refused(Code::PermissionDenied)
        }
        Change::ServerKeys => unreachable!("keys are about no room"),
    };
    let found = served(clients, it, &newest, &said).await;
    assert_eq!(found, expected, "{change:?} in {}", it.room.room_id);
    let own = clients.events(&it.room.room_id, &[said.event_id]).await;
    match change {
        Change::Message | Change::NotServed | Change::Erasure => {
            assert!(own.unwrap().iter().all(|it| !it.redacted));
        }
        Change::Redaction | Change::BanRedaction => assert!(own.unwrap()[0].redacted),
        Change::Removal | Change::Purge => assert_eq!(own.unwrap(), []),
        Change::Deletion => assert_eq!(own.unwrap_err().code(), Code::NotFound),
        Change::ServerKeys => unreachable!("keys are about no room"),
    }
}

/// One service stores keys of a server; another, which knew that there were none, has them.
async fn keys_are_known(first: &mut Clients, second: &mut Clients, number: u64) {
    let server_name = format!("server{number}.example");
    let get = pb::GetServerKeysRequest { server_name: server_name.clone() };
    let status = second.keys.get_server_keys(get.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let put = crate::server_keys::put_request(&server_name);
    first.keys.put_server_keys(put).await.unwrap();
    second.keys.get_server_keys(get).await.unwrap();
}

/// One try: a room that both services have in memory is changed through one of them.
async fn attempt(services: &mut [Clients; SERVICES], number: u64, change: Change) {
    let [one, other] = services;
    if change == Change::ServerKeys {
        return keys_are_known(one, other, number).await;
    }
    let mut it = TryRoom::new(number);
    let events: Vec<&Event> = it.events.iter().collect();
    append(other, &it.room, &events).await;
    for clients in [&mut *one, &mut *other] {
        let (newest, said) = (it.last().event_id.clone(), it.said().clone());
        assert_eq!(served(clients, &it, &newest, &said).await, Answer::Full);
        let held = clients.events(&it.room.room_id, &[said.event_id]).await.unwrap();
        assert!(!held[0].redacted);
    }
    tell(one, &mut it, change).await.unwrap();
    check(other, &it, change).await;
    if change == Change::Deletion {
        // The room may be made again, and then has nothing of what it had.
        append(one, &it.room, &events_of_new_room(&it)).await;
        let held = other.events(&it.room.room_id, &[it.said().event_id.clone()]).await;
        assert_eq!(held.unwrap(), []);
    }
}

/// The first events of a room: those without the messages.
fn events_of_new_room(it: &TryRoom) -> Vec<&Event> {
    it.events.iter().take(3).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_service_has_acknowledged_another_heeds() {
    let usual = 3 * u64::try_from(CHANGES.len()).unwrap();
    let rounds = Rounds::of("STALE", usual);
    let Some(mut servers) = Servers::start() else { return };
    let place = servers.prepare();
    let services = start(&place, SERVICES);
    let mut clients = [Clients::connect(&services[0]).await, Clients::connect(&services[1]).await];
    let mut random = Random::new(rounds.seed);
    let (mut tries, mut deaths) = (BTreeMap::<Change, u64>::new(), 0);
    let between = TRIES_A_PRIMARY.max(rounds.count / MAX_DEATHS).min(rounds.count / 2);
    for number in 0..rounds.count {
        if number > 0 && number % between == 0 {
            servers.fail_over();
            deaths += 1;
        }
        let change = CHANGES[usize::try_from(number).unwrap() % CHANGES.len()];
        if random.chance(50) {
            clients.swap(0, 1);
        }
        attempt(&mut clients, number, change).await;
        *tries.entry(change).or_default() += 1;
    }
    assert_verified(&services[0]);
    println!("heeded in all of {} tries, {deaths} deaths of the primary: {tries:?}", rounds.count);
}

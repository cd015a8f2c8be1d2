//! A ban that redacts decides what other servers get, at once.

use backscroll_testkit::Event;
use serde_json::json;

use super::content::{ALICE, BOB, Held};
use crate::{
    deadline::Deadline,
    pdu::RoomVersion,
    query::{self, Asker, Backfill, ExplainAccess, QueryError, ServedEvent},
    store::BanRedaction,
    visibility::Form,
};

const CAROL: &str = "@carol:two.example";

/// A room with users of two servers.
fn held() -> Held {
    let mut held = Held::new(RoomVersion::V10);
    // All other events follow this one.
    held.join = held.finished(held.room.member(CAROL, CAROL, "join").after([&held.join]));
    held
}

/// What another server gets of an event.
fn served(held: &Held, event: &Event) -> Result<ServedEvent, QueryError> {
    let question = Backfill {
        room_id: held.room.room_id.clone(),
        asker: Asker::Server {
            origin: "two.example".to_owned(),
            destination: "one.example".to_owned(),
        },
        event_ids: vec![event.event_id.clone()],
        limit: Some(1),
    };
    let mut page = query::answer(&held.cx, &question, &Deadline::none())?;
    Ok(page.events.remove(0))
}

fn explained(held: &Held, event: &Event) -> Vec<String> {
    let question = ExplainAccess {
        room_id: held.room.room_id.clone(),
        event_id: event.event_id.clone(),
        origin: "two.example".to_owned(),
        destination: "one.example".to_owned(),
    };
    query::answer(&held.cx, &question, &Deadline::none()).unwrap().facts
}

fn ban(before_arrival: Option<i64>) -> BanRedaction {
    BanRedaction { ban_event_id: "$ban".to_owned(), before_arrival }
}

#[test]
fn other_servers_get_the_events_of_a_banned_user_redacted() {
    let held = held();
    let by_bob = held.said(BOB, "text");
    let by_alice = held.said(ALICE, "text");
    assert_eq!(served(&held, &by_bob).unwrap().form, Form::Full);
    held.ban(Some(&ban(None)));
    let redacted = served(&held, &by_bob).unwrap();
    assert_eq!(redacted.form, Form::Redacted);
    assert!(!String::from_utf8_lossy(&redacted.pdu).contains("text"));
    assert!(explained(&held, &by_bob).iter().any(|it| it.contains("the ban redacts")));
    assert_eq!(served(&held, &by_alice).unwrap().form, Form::Full);
    held.ban(Some(&ban(Some(held.read(&by_bob).arrival))));
    assert_eq!(served(&held, &by_bob).unwrap().form, Form::Full);
    held.ban(None);
    assert_eq!(served(&held, &by_bob).unwrap().form, Form::Full);
}

/// The redacted form of an access control list allows no server.
#[test]
fn an_access_control_list_counts_as_redacted() {
    let held = held();
    let content = json!({"allow": ["*"], "deny": [], "allow_ip_literals": true});
    let list = held.room.state(BOB, "m.room.server_acl", "", content).after([&held.join]);
    let list = held.finished(list);
    assert_eq!(served(&held, &list).unwrap().form, Form::Full);
    held.ban(Some(&ban(None)));
    assert!(matches!(served(&held, &list), Err(QueryError::NotAllowed(_))));
    held.ban(None);
    assert_eq!(served(&held, &list).unwrap().form, Form::Full);
}

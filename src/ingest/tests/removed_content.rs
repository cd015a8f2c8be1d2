//! Nothing that is derived changes when content is removed.

use std::{collections::BTreeMap, fs::File, io::BufReader, path::Path};

use backscroll_testkit::{Draft, Event};
use serde_json::json;

use super::content::{ALICE, BOB, DAY_MS, Held, NOW_MS, faults, options};
use crate::{
    context::Context,
    ingest::{NewEvent, NotesLeft, append_all, remove_content, settle_waiting, work_off},
    pdu::RoomVersion,
    room_format::{Header, Line, Reader},
    state::map,
    store::{BanRedaction, BannedUser, EventNum, StateNum, Store, View as _},
};

/// The most events of the recorded rooms that are derived again.
const MAX_LINES: usize = 130;

/// Before room version 11, redaction removes the level for invites. An invite that the whole power
/// levels do not allow loses when states are resolved, also after their content was removed.
#[test]
fn levels_that_redaction_removes_still_authorise() {
    for removed in [false, true] {
        let held = Held::new(RoomVersion::V10);
        let room = &held.room;
        let (create, join) = (&held.create, &held.join);
        let append = |draft: Draft<'_>, authorised_by: &[&Event]| {
            let ids = authorised_by.iter().map(|it| it.event_id.clone());
            let event = draft.authorised_by(ids).finish();
            held.append(&event);
            event
        };
        let content = json!({"users": {ALICE: 100}, "invite": 50});
        let levels = room.state(ALICE, "m.room.power_levels", "", content).after([join]);
        let levels = append(levels, &[create, join]);
        let rules = room.state(ALICE, "m.room.join_rules", "", json!({"join_rule": "public"}));
        let rules = append(rules.after([&levels]), &[create, join, &levels]);
        let bob = room.member(BOB, BOB, "join").after([&rules]);
        let bob = append(bob, &[create, &rules, &levels]);
        let carol = "@carol:one.example";
        let invite = room.member(BOB, carol, "invite").after([&bob]);
        let invite = append(invite, &[create, &bob, &rules, &levels]);
        let topic = room.state(ALICE, "m.room.topic", "", json!({"topic": "text"}));
        let topic = append(topic.after([&bob]), &[create, join, &levels]);
        held.redact(&levels);
        if removed {
            held.pass(NOW_MS);
            held.pass(NOW_MS + 7 * DAY_MS);
            assert!(!held.is_whole(&levels));
        }
        let merged = room.message(ALICE, "text").after([&invite, &topic]);
        let merged = append(merged, &[create, join, &levels]);
        let states = states(&held.cx, &room.room_id);
        let state = states[&merged.event_id].as_ref().unwrap();
        assert!(state.contains(&topic.event_id) && !state.contains(&invite.event_id), "{removed}");
        assert_eq!(held.faults(NOW_MS), Vec::<String>::new());
    }
}

fn recorded(room: &Path) -> (Header, Vec<Line>) {
    let file = File::open(room.join("room.ndjson")).unwrap();
    let (header, lines) = Reader::open(BufReader::new(file)).unwrap();
    (header, lines.collect::<Result<_, _>>().unwrap())
}

/// The state after each event of a room: the event ids in it. `None` where it is not known.
type States = BTreeMap<String, Option<Vec<String>>>;

fn states(cx: &Context, room_id: &str) -> States {
    let store = &cx.store;
    let room = store.room_num(room_id).unwrap().unwrap();
    let id = |event: EventNum| store.body(room, event).unwrap().event_id;
    let in_state = |state: StateNum| {
        let entries = map::entries(&store.states(room), state.root(), None, usize::MAX).unwrap();
        let events = entries.into_iter().filter_map(|(_, value)| match value {
            map::Value::Event { event, .. } => Some(id(EventNum(event))),
            map::Value::Server { .. } => None,
        });
        let mut ids: Vec<String> = events.collect();
        ids.sort();
        ids
    };
    let events = (0..store.room(room).unwrap().next_event.0).map(EventNum);
    let node = |it| store.topology(room).node(it).unwrap().unwrap();
    events.map(|it| (id(it), node(it).state_after.map(in_state))).collect()
}

fn append_lines(cx: &Context, header: &Header, lines: &[Line]) {
    let events: Vec<NewEvent<'_>> = lines.iter().map(|it| NewEvent::of_line(header, it)).collect();
    assert!(append_all(cx, &events).failure.is_none());
    while work_off(cx).unwrap() != NotesLeft::None {}
    settle_waiting(&cx.store, &header.room_id).unwrap();
}

/// Makes every event of a room a redacted one, except the create event, and removes their content.
fn remove_all(cx: &Context, header: &Header, lines: &[Line]) {
    for line in lines {
        let pdu: serde_json::Value = serde_json::from_str(line.pdu.get()).unwrap();
        let Some(user_id) = pdu["sender"].as_str() else { continue };
        let (room_id, user_id) = (header.room_id.clone(), user_id.to_owned());
        let ban = BanRedaction { ban_event_id: "$none".to_owned(), before_arrival: None };
        cx.store.set_ban_redaction(&BannedUser { room_id, user_id }, Some(&ban)).unwrap();
    }
    remove_content(cx, NOW_MS).unwrap();
}

/// States and redactions are derived without the content that redaction removes: derived again after
/// the content of all events was removed, and derived for events that are appended after that.
#[test]
fn removed_content_changes_nothing_that_is_derived() {
    let rooms = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms");
    let mut rooms: Vec<_> =
        std::fs::read_dir(rooms).unwrap().map(|it| it.unwrap().path()).collect();
    rooms.retain(|it| it.join("room.ndjson").exists());
    rooms.sort();
    assert!(rooms.len() > 20);
    let mut removed = 0;
    for room in rooms {
        let (header, lines) = recorded(&room);
        if lines.len() > MAX_LINES {
            continue;
        }
        let half = lines.split_at(lines.len() / 2);
        let [whole, cut] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let whole = Context::new(Store::open(&options(whole.path(), 0)).unwrap());
        append_lines(&whole, &header, half.0);
        append_lines(&whole, &header, half.1);
        let expected = states(&whole, &header.room_id);
        let cut = Context::new(Store::open(&options(cut.path(), 0)).unwrap());
        append_lines(&cut, &header, half.0);
        remove_all(&cut, &header, half.0);
        append_lines(&cut, &header, half.1);
        assert!(states(&cut, &header.room_id) == expected, "{}", room.display());
        remove_all(&whole, &header, &lines);
        let number = whole.store.room_num(&header.room_id).unwrap().unwrap();
        removed += lines.len();
        assert_eq!(faults(&whole, NOW_MS), Vec::<String>::new(), "{}", room.display());
        assert!(states(&whole, &header.room_id) == expected, "{}", room.display());
        assert_eq!(whole.store.count_content_due(9).unwrap().events, 0, "{number:?}");
    }
    assert!(removed > 500, "{removed}");
}

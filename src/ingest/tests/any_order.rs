//! Events, redactions, bans and the removal of content, in any order.

use backscroll_testkit::{Draft, Event, Room};
use proptest::prelude::*;

use super::content::{ALICE, BOB, DAY_MS, NOW_MS, faults, options};
use crate::{
    context::Context,
    deadline::Deadline,
    ingest::{
        NewEvent, NotesLeft, Outcome, Replace, Verdict, append_all, remove_content,
        set_ban_redaction, work_off,
    },
    pdu::RoomVersion,
    query::{self, BatchGetEvents},
    store::{BanRedaction, BannedUser, Store},
};

/// One step of a history of a room.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Appends the event with this number; one that is held becomes accepted.
    Append(usize),
    /// Appends the redaction with this number as a rejected one; one that is held becomes rejected.
    Reject(usize),
    Ban(Option<i64>),
    Unban,
    /// Lets the time pass and removes content.
    RemoveContent,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..12).prop_map(Step::Append),
        2 => (8usize..12).prop_map(Step::Reject),
        1 => prop::option::of(0i64..12).prop_map(Step::Ban),
        1 => Just(Step::Unban),
        1 => Just(Step::RemoveContent),
    ];
    prop::collection::vec(step, 0..40)
}

/// The events of a small room, in the order of their arrival, with messages of two users and
/// redactions of some of them.
fn small_room() -> (Room, Vec<Event>) {
    let (room, create) = Room::new(RoomVersion::V10, ALICE);
    let created = create.event_id.clone();
    let finished = |draft: Draft<'_>| draft.authorised_by([created.clone()]).finish();
    let join = finished(room.member(ALICE, ALICE, "join").after([&create]));
    let bob = finished(room.member(BOB, BOB, "join").after([&join]));
    let said: Vec<Event> = [BOB, ALICE, BOB, ALICE, BOB]
        .iter()
        .map(|it| finished(room.message(it, "text").after([&bob])))
        .collect();
    let redactions: Vec<Event> = [&said[0], &said[1], &said[4]]
        .map(|it| finished(room.redaction(ALICE, &it.event_id).after([&bob])))
        .into();
    let again = finished(room.redaction(ALICE, &redactions[0].event_id).after([&bob]));
    let events = [create, join, bob].into_iter().chain(said).chain(redactions).chain([again]);
    (room, events.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases((ProptestConfig::default().cases / 16).max(1)))]

    /// Events are appended, redactions rejected and accepted again, bans set and removed, and content is
    /// removed, in any order: in the end, the redactions and the last ban decide, and nothing is left to
    /// be removed.
    #[test]
    fn the_order_does_not_decide_what_is_redacted(steps in steps()) {
        let (room, events) = small_room();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&options(dir.path(), 1)).unwrap();
        let held = HeldAnyhow { cx: Context::new(store), room, events };
        let mut ban = None;
        let mut now_ms = NOW_MS;
        for step in steps {
            match step {
                Step::Append(number) => held.append(number, Verdict::Accepted),
                Step::Reject(number) => held.append(number, Verdict::Rejected),
                Step::Ban(before) => {
                    ban = Some(before);
                    held.ban(ban);
                }
                Step::Unban => {
                    ban = None;
                    held.ban(ban);
                }
                Step::RemoveContent => {
                    now_ms += 2 * DAY_MS;
                    remove_content(&held.cx, now_ms).unwrap();
                }
            }
        }
        (0..held.events.len()).for_each(|it| held.append(it, Verdict::Accepted));
        while work_off(&held.cx).unwrap() != NotesLeft::None {}
        let found = held.redacted();
        let by_redaction = [true, true, false, false, true];
        for (position, is_redacted) in found.iter().enumerate() {
            let by_ban = ban.is_some_and(|before| {
                let arrival = i64::try_from(position).unwrap() + 3;
                position % 2 == 0 && before.is_none_or(|it| arrival < it)
            });
            let expected = by_redaction[position] || by_ban;
            prop_assert_eq!(*is_redacted, expected, "message {} with ban {:?}", position, ban);
        }
        // Nothing is left behind, and nothing is wrong.
        remove_content(&held.cx, now_ms + 2 * DAY_MS).unwrap();
        remove_content(&held.cx, now_ms + 4 * DAY_MS).unwrap();
        prop_assert_eq!(held.cx.store.count_content_due(9).unwrap().events, 0);
        prop_assert_eq!(faults(&held.cx, now_ms + 99 * DAY_MS), Vec::<String>::new());
    }
}

/// A store that holds any of the events of a small room.
struct HeldAnyhow {
    cx: Context,
    room: Room,
    events: Vec<Event>,
}

impl HeldAnyhow {
    /// Appends an event at its own arrival number.
    fn append(&self, number: usize, verdict: Verdict) {
        let event = &self.events[number];
        let arrival = Some(i64::try_from(number).unwrap());
        let pdu = event.pdu.as_bytes();
        let new = NewEvent::accepted(&self.room.room_id, "10", &event.event_id, pdu);
        let outcome = append_all(
            &self.cx,
            &[NewEvent { arrival, verdict, replace: Replace::Changed, ..new }],
        );
        assert!(matches!(outcome.outcomes[..], [Outcome::Appended { .. }]), "{outcome:?}");
    }

    fn ban(&self, ban: Option<Option<i64>>) {
        let (room_id, user_id) = (self.room.room_id.clone(), BOB.to_owned());
        let user = BannedUser { room_id, user_id };
        let ban = ban.map(|before_arrival| {
            let ban_event_id = self.events[2].event_id.clone();
            BanRedaction { ban_event_id, before_arrival }
        });
        set_ban_redaction(&self.cx.store, &user, ban.as_ref()).unwrap();
    }

    /// Whether each of the five messages is redacted.
    fn redacted(&self) -> Vec<bool> {
        let question = BatchGetEvents {
            room_id: self.room.room_id.clone(),
            event_ids: self.events[3..8].iter().map(|it| it.event_id.clone()).collect(),
        };
        let answer = query::answer(&self.cx, &question, &Deadline::none()).unwrap();
        answer.events.iter().map(|it| it.redacted).collect()
    }
}

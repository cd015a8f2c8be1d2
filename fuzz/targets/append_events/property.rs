//! What must hold of every event that `AppendEvents` is given: it is taken or refused, nothing
//! panics, and what is taken is the same when it is read again.
//!
//! The first byte says what the caller says about the event, the others are the PDU. Used by the
//! fuzz target and by the tests, which try the seeds.

use backscroll::{
    context::Context,
    ingest::{self, NewEvent, Verdict},
    pdu::{Pdu, RoomVersion},
};

/// The room of events that do not name theirs.
const ROOM: &str = "!room:hs1.example";

/// Holds, or panics.
pub(crate) fn append_events(cx: &Context, bytes: &[u8]) {
    let Some((head, pdu)) = bytes.split_first() else { return };
    let versions = RoomVersion::ALL;
    let version = versions[usize::from(head & 0x0f) % versions.len()];
    let flag = |bit: u8| head & bit != 0;
    if let Ok(read) = Pdu::parse(pdu, version) {
        let again = Pdu::parse(read.canonical_json().as_bytes(), version);
        let again = again.expect("what is read can be read again");
        assert_eq!(again.canonical_json(), read.canonical_json());
        assert_eq!(again.event_id(), read.event_id());
        // Its hash, and so its id, is that of what every server keeps.
        let redacted = read.redacted().expect("what is read can be redacted");
        assert_eq!(redacted.event_id(), read.event_id());
        let twice = redacted.redacted().expect("what is redacted can be redacted");
        assert_eq!(twice.canonical_json(), redacted.canonical_json());
    }
    let json = serde_json::from_slice::<serde_json::Value>(pdu).ok();
    let room_id = json.as_ref().and_then(|it| it["room_id"].as_str()).unwrap_or(ROOM);
    let event = NewEvent {
        room_id,
        room_version: version.as_str(),
        event_id: "",
        pdu,
        verdict: Verdict::of_flags(flag(0x20), flag(0x40)),
        outlier: flag(0x10),
        state_after: &[],
        arrival: None,
    };
    let first = ingest::append_unflushed(cx, &event).expect("the store holds");
    let second = ingest::append_unflushed(cx, &event).expect("the store holds");
    match (&first, &second) {
        (
            ingest::Outcome::Appended { event_id, redacted, unreadable, state_unknown, .. },
            ingest::Outcome::Appended {
                event_id: again,
                duplicate,
                redacted: redacted_again,
                unreadable: unreadable_again,
                state_unknown: unknown_again,
                ..
            },
        ) => {
            assert!(*duplicate, "taken twice: {event_id}");
            assert_eq!((event_id, redacted), (again, redacted_again));
            assert_eq!((unreadable, state_unknown), (unreadable_again, unknown_again));
        }
        _ => assert_eq!(first, second),
    }
}

//! What must hold for every event that `AppendEvents` receives: it is stored or refused, nothing
//! panics, and a stored event is the same when it is read again.
//!
//! The first byte of the input selects the room version and the verdict; the other bytes are the
//! event. The fuzz target looks for inputs that break the property; the tests try the seeds.
//!
//! Compiled for tests and for fuzzing only.

use crate::{
    context::Context,
    ingest::{self, NewEvent, Verdict},
    pdu::{Pdu, RoomVersion},
};

/// The room of events that do not name theirs.
const ROOM: &str = "!room:hs1.example";

/// Checks the property for one input. Panics if it does not hold.
pub fn append_events(cx: &Context, bytes: &[u8]) {
    let Some((head, pdu)) = bytes.split_first() else { return };
    let mut versions = RoomVersion::ALL.into_iter().cycle();
    let version = versions.nth(usize::from(head & 0x0f)).expect("the cycle does not end");
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
    let room_id = json.as_ref().and_then(|it| it.get("room_id")?.as_str()).unwrap_or(ROOM);
    let event = NewEvent {
        kept: "",
        room_id,
        room_version: version.as_str(),
        event_id: "",
        pdu,
        verdict: Verdict::of_flags(flag(0x20), flag(0x40)),
        outlier: flag(0x10),
        state_after: &[],
        arrival: None,
        replace: ingest::Replace::Never,
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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::append_events;
    use crate::{
        context::Context,
        store::{Options, Store},
        verify::{self, Fault, Watch},
    };

    #[derive(Default)]
    struct Faults(Vec<Fault>);

    impl Watch for Faults {
        fn events(&mut self, _count: u32) {}

        fn fault(&mut self, fault: Fault) {
            self.0.push(fault);
        }
    }

    #[test]
    fn the_property_holds_for_every_seed() {
        let dir = tempfile::tempdir().unwrap();
        let cx = Context::new(Store::open(&Options::small(dir.path())).unwrap());
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/append_events");
        let seeds: Vec<_> = fs::read_dir(seeds).unwrap().map(|it| it.unwrap().path()).collect();
        assert!(!seeds.is_empty());
        for seed in seeds {
            append_events(&cx, &fs::read(seed).unwrap());
        }
        cx.store.flush().unwrap();
        let mut faults = Faults::default();
        assert!(verify::verify(&cx.store, &mut faults).unwrap().is_continue());
        assert!(faults.0.is_empty(), "{:#?}", faults.0);
    }
}

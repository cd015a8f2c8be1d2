//! Made-up events for the write path, and events that break the format of their room version.

use backscroll::{
    ingest::NewEvent,
    pdu::{Pdu, RoomVersion, id_of_unreadable},
};
use backscroll_testkit::{Draft, Event, Room};
use serde_json::Value;

/// What the tests of this service need of a made-up room.
pub(crate) trait RoomExt {
    /// The room's version, as this service knows it.
    fn known_version(&self) -> RoomVersion;

    /// An event of this room, accepted, to be appended.
    fn accepted<'a>(&'a self, event: &'a Event) -> NewEvent<'a>;
}

/// What the tests of this service need of an event that is being made.
pub(crate) trait DraftExt {
    /// Changes the event's text and finishes it as an unreadable event.
    ///
    /// # Panics
    /// When the changed text does not break the format of its room version.
    fn unreadable(self, change: impl FnOnce(String) -> String) -> Event;
}

impl RoomExt for Room {
    fn known_version(&self) -> RoomVersion {
        RoomVersion::parse(self.version.as_str()).unwrap()
    }

    fn accepted<'a>(&'a self, event: &'a Event) -> NewEvent<'a> {
        let pdu = event.pdu.as_bytes();
        NewEvent::accepted(&self.room_id, self.version.as_str(), &event.event_id, pdu)
    }
}

impl DraftExt for Draft<'_> {
    fn unreadable(self, change: impl FnOnce(String) -> String) -> Event {
        let version = self.room().known_version();
        let depth = self.depth();
        let number = self.room().made();
        let pdu = change(Value::Object(self.members()).to_string());
        assert!(Pdu::parse(pdu.as_bytes(), version).is_err(), "the event breaks no rule: {pdu}");
        let own_id = id_of_unreadable(pdu.as_bytes(), version).map(|it| it.as_str().to_owned());
        let event_id = own_id.unwrap_or_else(|| format!("$odd{number}:one.example"));
        Event { event_id, pdu, depth, unreadable: true }
    }
}

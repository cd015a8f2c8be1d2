//! The parts of an event that state resolution needs.
//!
//! Built once from the event's JSON and then shared behind an [`Arc`](std::sync::Arc). The content
//! stays as the text that was received, because room versions 1 to 5 allow numbers that no integer
//! type holds.

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt,
    UserId,
    events::TimelineEventType,
    room_version_rules::AuthorizationRules,
    state_res::{self, Event},
};
use serde_json::value::RawValue;

use super::{StateKey, power_levels::readable_power_levels};

/// An event for state resolution.
///
/// The content is the original one: a redaction does not change how states are resolved.
#[derive(Debug, Clone)]
pub struct StateEvent {
    /// The id of the event.
    pub event_id: OwnedEventId,
    /// The id of the event's room. The create event of room version 12 does not contain it, but it is
    /// needed here all the same.
    pub room_id: OwnedRoomId,
    /// The user who sent the event.
    pub sender: OwnedUserId,
    /// The `type` of the event.
    pub event_type: TimelineEventType,
    /// The `state_key`; `None` for an event that is no state event. Such events are ignored.
    pub state_key: Option<String>,
    /// The `origin_server_ts`; see [`timestamp`].
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// The `depth`, which only room version 1 uses.
    pub depth: i64,
    /// The `content`, as received.
    pub content: Box<RawValue>,
    /// The ids in its `prev_events`.
    pub prev_events: Vec<OwnedEventId>,
    /// The ids in its `auth_events`.
    pub auth_events: Vec<OwnedEventId>,
    /// The id of the event that a redaction redacts.
    pub redacts: Option<OwnedEventId>,
    /// Whether the event was rejected. A rejected event authorises no other event.
    pub rejected: bool,
}

impl StateEvent {
    /// The key of the entry that this event sets; `None` if it is no state event.
    pub fn key(&self) -> Option<StateKey> {
        Some((self.event_type.to_string(), self.state_key.clone()?))
    }

    /// Converts power levels to a form that ruma reads; any other event stays as it is.
    #[must_use]
    pub fn with_readable_power_levels(mut self, rules: &AuthorizationRules) -> Self {
        if self.event_type == TimelineEventType::RoomPowerLevels
            && let Some(content) = readable_power_levels(&self.content, rules.integer_power_levels)
        {
            self.content = content;
        }
        self
    }

    /// The state entries that the authorisation rules need to check this event. Empty if the content
    /// is malformed; the rules refuse such an event anyway.
    pub(super) fn auth_keys(&self, rules: &AuthorizationRules) -> Vec<StateKey> {
        state_res::auth_types_for_event(
            &self.event_type,
            &self.sender,
            self.state_key.as_deref(),
            &self.content,
            rules,
        )
        .unwrap_or_default()
        .into_iter()
        .map(|(event_type, state_key)| (event_type.to_string(), state_key))
        .collect()
    }
}

/// Converts an `origin_server_ts` from JSON into the range that Matrix allows today, to the nearest
/// value. Old room versions allow any number; only the order of two timestamps matters here.
pub fn timestamp(milliseconds: i64) -> MilliSecondsSinceUnixEpoch {
    let milliseconds = u64::try_from(milliseconds).unwrap_or(0);
    MilliSecondsSinceUnixEpoch(UInt::try_from(milliseconds).unwrap_or(UInt::MAX))
}

impl Event for StateEvent {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        Some(&self.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}

/// The id of the create event of a room, from room version 12 on, where the room id is made from it.
/// `None` if the room id is of an older form.
pub(super) fn create_event_id(room_id: &RoomId) -> Option<OwnedEventId> {
    EventId::parse(format!("${}", room_id.strip_sigil())).ok()
}

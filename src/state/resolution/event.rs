//! What state resolution needs of one event, and nothing more.
//!
//! Built once from the event's JSON and then shared behind an [`Arc`](std::sync::Arc). The content
//! stays as the text that was received: room versions 1 to 5 allow numbers that no integer type of
//! ours holds.

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt,
    UserId,
    events::TimelineEventType,
    room_version_rules::AuthorizationRules,
    state_res::{self, Event},
};
use serde_json::value::RawValue;

use super::{StateKey, power_levels::readable_power_levels};

/// One event, as state resolution sees it.
///
/// The content is the one the event was sent with: a redaction does not change how state resolves.
#[derive(Debug, Clone)]
pub struct StateEvent {
    /// The id of the event.
    pub event_id: OwnedEventId,
    /// The room of the event. The create event of room version 12 does not name its room: say it
    /// here all the same.
    pub room_id: OwnedRoomId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// Its `type`; `"m.room.topic".into()` makes one.
    pub event_type: TimelineEventType,
    /// Its `state_key`; an event without one is no state and takes no part in resolution.
    pub state_key: Option<String>,
    /// Its `origin_server_ts`; see [`timestamp`].
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// Its `depth`, which only room version 1 resolves by.
    pub depth: i64,
    /// Its `content`, as received.
    pub content: Box<RawValue>,
    /// The ids in its `prev_events`.
    pub prev_events: Vec<OwnedEventId>,
    /// The ids in its `auth_events`.
    pub auth_events: Vec<OwnedEventId>,
    /// The event that a redaction redacts.
    pub redacts: Option<OwnedEventId>,
    /// Whether the event was rejected: such an event lends nobody any rights.
    pub rejected: bool,
}

impl StateEvent {
    /// The entry of the room state that this event sets, if it is a state event.
    pub fn key(&self) -> Option<StateKey> {
        Some((self.event_type.to_string(), self.state_key.clone()?))
    }

    /// Power levels with every level in a form that ruma reads; any other event as it is.
    #[must_use]
    pub fn with_readable_power_levels(mut self, rules: &AuthorizationRules) -> Self {
        if self.event_type == TimelineEventType::RoomPowerLevels
            && let Some(content) = readable_power_levels(&self.content, rules.integer_power_levels)
        {
            self.content = content;
        }
        self
    }

    /// The state entries that the authorisation rules look at to judge this event.
    ///
    /// Empty when the content is too malformed to tell; the rules refuse such an event anyway.
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

/// An `origin_server_ts` as it stands in the JSON, forced into the range that Matrix has now.
///
/// Old room versions let a timestamp be anything; only the order of two timestamps matters here.
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

/// The id of the create event of a room whose version names the room after it (12 and later).
pub(super) fn create_event_id(room_id: &RoomId) -> Option<OwnedEventId> {
    EventId::parse(format!("${}", room_id.strip_sigil())).ok()
}

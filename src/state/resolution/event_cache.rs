//! The events of one resolution: each is looked up once, and missing ones are remembered.
//!
//! ruma fails for the whole room if one authorising event is missing or one old power level is
//! written as `50.0`, and does not end if power levels authorise each other in a circle. Real rooms
//! have all of these: gaps; such numbers in versions 1 to 9; and in versions 1 and 2, where senders
//! choose event ids, possibly circles. So ruma gets events that name stored events only, with power
//! levels that it can read and follow to an end.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    events::TimelineEventType,
    room_version_rules::{AuthorizationRules, EventIdFormatVersion, RoomVersionRules},
};

use super::{Fetch, StateEvent, event::create_event_id, power_levels::readable_power_levels};

type Memo = RefCell<BTreeMap<OwnedEventId, Option<Arc<StateEvent>>>>;

/// Looks up and remembers the events of one resolution.
pub(super) struct EventCache<'a> {
    pub(super) rules: &'a AuthorizationRules,
    fetch: &'a Fetch<'a>,
    as_sent: Memo,
    for_ruma: Memo,
    /// Whether circles of power levels are possible and matter: senders choose ids, and the algorithm
    /// follows power levels (room version 2 only).
    circles_hurt: bool,
    /// Power levels that are known to lead back to the first of the room.
    straight: RefCell<BTreeSet<OwnedEventId>>,
}

impl<'a> EventCache<'a> {
    pub(super) fn new(rules: &'a RoomVersionRules, fetch: &'a Fetch<'a>) -> Self {
        Self {
            rules: &rules.authorization,
            fetch,
            as_sent: Memo::default(),
            for_ruma: Memo::default(),
            circles_hurt: rules.event_id_format == EventIdFormatVersion::V1
                && rules.state_res.v2_rules().is_some(),
            straight: RefCell::default(),
        }
    }

    /// The state event with an id; `None` if it is not stored, or no state event.
    pub(super) fn get(&self, id: &EventId) -> Option<Arc<StateEvent>> {
        remember(&self.as_sent, id, || (self.fetch)(id)).filter(|event| event.state_key.is_some())
    }

    /// The same event in a form that ruma can always process.
    pub(super) fn get_for_ruma(&self, id: &EventId) -> Option<Arc<StateEvent>> {
        remember(&self.for_ruma, id, || self.get(id).map(|event| self.made_fit(event)))
    }

    /// The ids of the events that authorise an event. From room version 12, they include the create
    /// event, which is named by the room id and not by `auth_events`.
    pub(super) fn authorised_by(&self, event: &StateEvent) -> Vec<OwnedEventId> {
        let mut ids = event.auth_events.clone();
        if self.rules.room_create_event_id_as_room_id
            && event.event_type != TimelineEventType::RoomCreate
        {
            ids.extend(create_event_id(&event.room_id));
        }
        ids
    }

    /// The ids of all events that were looked up and are not stored.
    pub(super) fn missing(&self) -> BTreeSet<OwnedEventId> {
        let asked = self.as_sent.borrow();
        asked.iter().filter(|(_, event)| event.is_none()).map(|(id, _)| id.clone()).collect()
    }

    fn made_fit(&self, event: Arc<StateEvent>) -> Arc<StateEvent> {
        let in_circle = self.circles_hurt && self.leads_in_a_circle(&event);
        let fits = |id: &&OwnedEventId| {
            self.get(id).is_some_and(|cited| !(in_circle && is_power_levels(&cited)))
        };
        let auth_events: Vec<_> = event.auth_events.iter().filter(fits).cloned().collect();
        let content = is_power_levels(&event)
            .then(|| readable_power_levels(&event.content, self.rules.integer_power_levels))
            .flatten();
        if auth_events.len() == event.auth_events.len() && content.is_none() {
            return event;
        }
        let mut fit = StateEvent::clone(&event);
        fit.auth_events = auth_events;
        fit.content = content.unwrap_or(fit.content);
        Arc::new(fit)
    }

    /// Whether an event is power levels that lead into a circle of power levels, so that the mainline
    /// from it never ends.
    fn leads_in_a_circle(&self, event: &Arc<StateEvent>) -> bool {
        let mut passed = BTreeSet::new();
        let mut next = Some(Arc::clone(event)).filter(|event| is_power_levels(event));
        while let Some(event) = next {
            if self.straight.borrow().contains(&event.event_id) {
                break;
            }
            if !passed.insert(event.event_id.clone()) {
                return true;
            }
            let cited = event.auth_events.iter().filter_map(|id| self.get(id));
            next = cited.into_iter().find(|cited| is_power_levels(cited));
        }
        self.straight.borrow_mut().extend(passed);
        false
    }
}

fn is_power_levels(event: &StateEvent) -> bool {
    event.event_type == TimelineEventType::RoomPowerLevels && event.state_key.as_deref() == Some("")
}

fn remember(
    memo: &Memo,
    id: &EventId,
    find: impl FnOnce() -> Option<Arc<StateEvent>>,
) -> Option<Arc<StateEvent>> {
    if let Some(known) = memo.borrow().get(id) {
        return known.clone();
    }
    // The memo is not borrowed while `find` runs, because `find` may look up other events.
    let found = find();
    memo.borrow_mut().insert(id.to_owned(), found.clone());
    found
}

//! The events at hand during one resolution: each is asked for once, gaps are remembered.
//!
//! ruma gives up on a whole room when one authorising event is missing or one old power level is
//! written as `50.0`, and never ends where power levels authorise each other in a circle. A history
//! service cannot: rooms have gaps, rooms of versions 1 to 9 hold such numbers, and in versions 1
//! and 2 anyone may choose event ids that close a circle. So ruma is shown events that name only
//! what is held, with power levels it can read and follow to an end.

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

/// What one resolution knows of the room.
pub(super) struct Held<'a> {
    pub(super) rules: &'a AuthorizationRules,
    fetch: &'a Fetch<'a>,
    as_sent: Memo,
    for_ruma: Memo,
    /// Ids are chosen, and the algorithm follows power levels (room version 2 only).
    circles_hurt: bool,
    /// Power levels known to lead back to the first of the room.
    straight: RefCell<BTreeSet<OwnedEventId>>,
}

impl<'a> Held<'a> {
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

    /// The state event with this id. Anything else, and anything not held, is `None`.
    pub(super) fn get(&self, id: &EventId) -> Option<Arc<StateEvent>> {
        remember(&self.as_sent, id, || (self.fetch)(id)).filter(|event| event.state_key.is_some())
    }

    /// The same event in a form that ruma can always work with.
    pub(super) fn get_for_ruma(&self, id: &EventId) -> Option<Arc<StateEvent>> {
        remember(&self.for_ruma, id, || self.get(id).map(|event| self.made_fit(event)))
    }

    /// The events that authorise this one, the create event of room version 12 included: it is
    /// named by the room id there, never by `auth_events`.
    pub(super) fn authorised_by(&self, event: &StateEvent) -> Vec<OwnedEventId> {
        let mut ids = event.auth_events.clone();
        if self.rules.room_create_event_id_as_room_id
            && event.event_type != TimelineEventType::RoomCreate
        {
            ids.extend(create_event_id(&event.room_id));
        }
        ids
    }

    /// Every event that was asked for and is not held.
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

    /// Whether these are power levels from which the mainline never ends.
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
    // The memo is not borrowed while `find` runs: it may ask for other events.
    let found = find();
    memo.borrow_mut().insert(id.to_owned(), found.clone());
    found
}

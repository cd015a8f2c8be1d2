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
    EventId, OwnedEventId, UserId,
    events::TimelineEventType,
    room_version_rules::{AuthorizationRules, EventIdFormatVersion, RoomVersionRules},
};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{Fetch, StateEvent, event::create_event_id};

/// The greatest power level that ruma reads, and JSON of Matrix may hold.
const MAX_LEVEL: i64 = (1 << 53) - 1;

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

/// The content with every power level an integer, or `None` if that changes nothing.
///
/// As Synapse reads them: where levels need not be integers, a fraction is cut off and `null`
/// counts as absent. Levels of users whose id is none (to ruma, which knows better than the
/// homeserver that accepted the event) are nobody's.
pub(super) fn readable_power_levels(
    content: &RawValue,
    integers_only: bool,
) -> Option<Box<RawValue>> {
    let mut content: Map<String, Value> = serde_json::from_str(content.get()).ok()?;
    let mut changed = false;
    if let Some(Value::Object(users)) = content.get_mut("users") {
        let before = users.len();
        users.retain(|user_id, _| <&UserId>::try_from(user_id.as_str()).is_ok());
        changed = users.len() != before;
    }
    if !integers_only {
        changed |= make_levels_readable(&mut content);
        for field in ["users", "events", "notifications"] {
            if let Some(Value::Object(levels)) = content.get_mut(field) {
                changed |= make_levels_readable(levels);
            }
        }
    }
    if changed { to_raw_value(&content).ok() } else { None }
}

fn make_levels_readable(levels: &mut Map<String, Value>) -> bool {
    let before = levels.len();
    levels.retain(|_, level| !level.is_null());
    let mut changed = levels.len() != before;
    for level in levels.values_mut() {
        let Value::Number(number) = level else { continue };
        let whole = whole_number(number).clamp(-MAX_LEVEL, MAX_LEVEL);
        if number.as_i64() != Some(whole) {
            *level = whole.into();
            changed = true;
        }
    }
    changed
}

fn whole_number(number: &serde_json::Number) -> i64 {
    if let Some(whole) = number.as_i64() {
        return whole;
    }
    // Beyond i64 or not whole. Printing without a fraction truncates without a cast.
    let text = number.as_f64().map(|float| format!("{:.0}", float.trunc())).unwrap_or_default();
    text.parse().unwrap_or(if text.starts_with('-') { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(json: &str) -> Option<String> {
        let content = RawValue::from_string(json.to_owned()).unwrap();
        readable_power_levels(&content, false).map(|it| it.get().to_owned())
    }

    #[test]
    fn power_levels_that_ruma_reads_stay_as_they_are() {
        assert_eq!(readable(r#"{"ban":50,"users":{"@a:b":"100"},"odd":[1.5]}"#), None);
    }

    #[test]
    fn fractions_are_cut_off_and_nulls_count_as_absent() {
        assert_eq!(
            readable(r#"{"ban":-1.9,"kick":1e400,"users":{"@a:b":50.0,"@c:d":null}}"#),
            None,
            "not JSON that can be read at all: left to the rules to refuse"
        );
        assert_eq!(
            readable(r#"{"ban":-1.9,"kick":1e40,"users":{"@a:b":50.0,"@c:d":null,"e":1}}"#)
                .unwrap(),
            r#"{"ban":-1,"kick":9007199254740991,"users":{"@a:b":50}}"#
        );
    }
}

//! Whether the sender of a redaction has the power to redact: in the state before the redaction, and by
//! the power levels that were in force when it arrived.

use std::collections::BTreeSet;

use ruma::{
    UserId,
    room_version_rules::AuthorizationRules,
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
};

use super::{
    resolve::state_event,
    stored::{parse_stored, version_of},
};
use crate::{
    pdu::Pdu,
    state::{
        map::{self, MapKey, Value},
        resolution::StateEvent,
    },
    store::{Edit, EventNum, Judged as _, PowerEvent, StateNum, StoreError, View},
};

/// The most power levels that are read to find those in force.
const MAX_POWERS_READ: usize = 64;

/// Whether all power levels in force at a redaction's arrival deny its sender the power to redact.
pub(super) fn has_lost_power(
    edit: &Edit<'_>,
    arrival: i64,
    state: StateNum,
    redaction: &Pdu,
    rules: &AuthorizationRules,
) -> Result<bool, StoreError> {
    let Some(sender) = redaction.sender().as_ruma() else { return Ok(false) };
    if arrival < 0 || is_creator_above_all(edit, state, sender, rules)? {
        return Ok(false);
    }
    if let Some(levels) = state_entry(edit, state, "m.room.power_levels")?
        && !is_known_before(edit, levels, arrival)?
    {
        // It is not known when these power levels were in force.
        return Ok(false);
    }
    let mut replaced = BTreeSet::new();
    let mut is_denied = false;
    for PowerEvent { event, power } in
        edit.powers_before(edit.room_num(), arrival, MAX_POWERS_READ)?
    {
        if !replaced.contains(&event) {
            let pdu = parse_stored(edit, event, version_of(edit)?)?;
            let Some(levels) = pdu.and_then(|it| state_event(&it, false)) else {
                return Ok(false);
            };
            let levels = RoomPowerLevelsEvent::new(levels.with_readable_power_levels(rules));
            if may_redact(&levels, sender, rules) != Some(false) {
                return Ok(false);
            }
            is_denied = true;
        }
        replaced.extend(power.before);
    }
    Ok(is_denied)
}

/// Whether it is known when power levels were in force, before an arrival: they were never, because
/// they were not accepted, or they are on the list. Outliers are not on the list, nor are power levels
/// after which the state is not known.
fn is_known_before(edit: &Edit<'_>, levels: EventNum, arrival: i64) -> Result<bool, StoreError> {
    let Some(node) = edit.find_node(levels)? else { return Ok(false) };
    if !node.flags.outlier && !node.flags.is_accepted() {
        return Ok(true);
    }
    let power = edit.power(edit.room_num(), node.arrival, levels)?;
    Ok(node.arrival < arrival && power.is_some())
}

/// Whether a user made the room, in a room version that puts creators above all power levels.
fn is_creator_above_all(
    edit: &Edit<'_>,
    state: StateNum,
    user: &UserId,
    rules: &AuthorizationRules,
) -> Result<bool, StoreError> {
    if !rules.explicitly_privilege_room_creators {
        return Ok(false);
    }
    let create = state_entry(edit, state, "m.room.create")?;
    let create = create.map(|it| read_entry(edit, it)).transpose()?.flatten();
    let create = create.map(RoomCreateEvent::new);
    Ok(create.is_some_and(|it| it.creators(rules).is_ok_and(|it| it.contains(user))))
}

/// Whether the sender of a redaction has the power to redact in a state; `None` if the create event
/// or the power levels of that state cannot be read.
pub(super) fn has_power(
    edit: &Edit<'_>,
    state: StateNum,
    redaction: &Pdu,
    rules: &AuthorizationRules,
) -> Result<Option<bool>, StoreError> {
    let Some(sender) = redaction.sender().as_ruma() else { return Ok(None) };
    let create = state_entry(edit, state, "m.room.create")?;
    let Some(create) = create.map(|it| read_entry(edit, it)).transpose()?.flatten() else {
        return Ok(None);
    };
    let Ok(creators) = RoomCreateEvent::new(create).creators(rules) else { return Ok(None) };
    if rules.explicitly_privilege_room_creators && creators.contains(sender) {
        return Ok(Some(true));
    }
    let Some(levels) = state_entry(edit, state, "m.room.power_levels")? else {
        // Without power levels the creator has 100, all others have 0, and a redaction needs 50.
        return Ok(Some(creators.contains(sender)));
    };
    // Power levels that cannot be read grant nothing and deny nothing.
    let Some(levels) = read_entry(edit, levels)? else { return Ok(None) };
    let levels = levels.with_readable_power_levels(rules);
    Ok(may_redact(&RoomPowerLevelsEvent::new(levels), sender, rules))
}

/// Whether power levels give a user the power to redact; `None` if they cannot be read.
fn may_redact(
    levels: &RoomPowerLevelsEvent<StateEvent>,
    sender: &UserId,
    rules: &AuthorizationRules,
) -> Option<bool> {
    let needed = levels.get_as_int_or_default(RoomPowerLevelsIntField::Redact, rules).ok()?;
    Some(levels.user_power_level(sender, rules).ok()? >= needed)
}

/// The event under a type and the empty state key in a state.
pub(super) fn state_entry(
    edit: &Edit<'_>,
    state: StateNum,
    event_type: &str,
) -> Result<Option<EventNum>, StoreError> {
    let nodes = edit.states(edit.room_num());
    let value = map::get(&nodes, state.root(), MapKey::of_state(event_type, ""))?;
    Ok(match value {
        Some(Value::Event { event, .. }) => Some(EventNum(event)),
        Some(Value::Server { .. }) | None => None,
    })
}

fn read_entry(edit: &Edit<'_>, event: EventNum) -> Result<Option<StateEvent>, StoreError> {
    let pdu = parse_stored(edit, event, version_of(edit)?)?;
    Ok(pdu.and_then(|it| state_event(&it, false)))
}

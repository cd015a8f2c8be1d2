//! Power levels in a form that ruma reads.

use ruma::UserId;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

/// The greatest power level that ruma reads, and the greatest integer that Matrix JSON allows.
const MAX_LEVEL: i64 = (1 << 53) - 1;

/// The content with every power level as an integer; `None` if it needs no change or is not JSON.
///
/// Levels are read as Synapse reads them: where they need not be integers, fractions are cut off and
/// `null` counts as absent. Levels of user ids that ruma does not accept are removed.
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

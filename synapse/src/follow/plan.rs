//! What to do so that the history service holds the same events of a room as the homeserver. Pure.

use std::collections::BTreeMap;

use crate::{digest::HeldAs, metrics::Difference, proto::v1::EventFlags};

/// An event that the history service holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OurEvent {
    /// How it is held.
    pub(crate) held: HeldAs,
    /// Whether it is a state event: the history service makes an outlier of it instead of removing
    /// it.
    pub(crate) is_state: bool,
}

impl From<EventFlags> for OurEvent {
    fn from(event: EventFlags) -> Self {
        let held = HeldAs { verdict: event.verdict(), outlier: event.outlier };
        Self { held, is_state: event.is_state }
    }
}

/// What to do with a part of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Events to append as the homeserver holds them now, with how they differ.
    pub(crate) append: BTreeMap<String, Difference>,
    /// Events to take out of the graph and to keep as outliers, before any event is appended.
    pub(crate) make_outliers: Vec<String>,
    /// Events to remove, before any event is appended.
    pub(crate) remove: Vec<String>,
    /// State events that the homeserver does not hold at all. Only a new import of the whole room
    /// removes them.
    pub(crate) not_removable: Vec<String>,
}

impl Plan {
    /// Compares what the homeserver holds with what the history service holds.
    #[must_use]
    pub(crate) fn new(
        homeserver: &BTreeMap<String, HeldAs>,
        ours: &BTreeMap<String, OurEvent>,
    ) -> Self {
        let mut plan = Self::default();
        for (id, theirs) in homeserver {
            let Some(our) = ours.get(id) else {
                plan.append.insert(id.clone(), Difference::Missing);
                continue;
            };
            if theirs.outlier && !our.held.outlier {
                plan.make_outliers.push(id.clone());
            }
            if theirs.verdict != our.held.verdict {
                plan.append.insert(id.clone(), Difference::Verdict);
            } else if our.held.outlier && !theirs.outlier {
                plan.append.insert(id.clone(), Difference::Outlier);
            }
        }
        for (id, our) in ours.iter().filter(|(id, _)| !homeserver.contains_key(*id)) {
            let to = if our.is_state { &mut plan.not_removable } else { &mut plan.remove };
            to.push(id.clone());
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Homeserver = BTreeMap<String, HeldAs>;
    type Ours = BTreeMap<String, OurEvent>;

    fn any_held() -> impl Strategy<Value = HeldAs> {
        (0_u8..6).prop_map(HeldAs::of_flags)
    }

    /// Two rooms that have many events in common.
    fn any_rooms() -> impl Strategy<Value = (Homeserver, Ours)> {
        let id = || "\\$[a-d][a-d]";
        let ours = (any_held(), prop::bool::weighted(0.2));
        let ours = ours.prop_map(|(held, is_state)| OurEvent { held, is_state });
        (
            prop::collection::btree_map(id(), any_held(), 0..20),
            prop::collection::btree_map(id(), ours, 0..20),
        )
    }

    /// What the contract says of `RemoveEvents` and of `AppendEvents` with `replace`.
    fn apply(plan: &Plan, homeserver: &Homeserver, ours: &mut Ours) {
        for id in &plan.make_outliers {
            ours.get_mut(id).unwrap().held.outlier = true;
        }
        for id in &plan.remove {
            let removed = ours.remove(id).unwrap();
            assert!(!removed.is_state, "a state event would become an outlier");
        }
        for id in plan.append.keys() {
            let held = homeserver[id];
            let our = ours.entry(id.clone()).or_insert(OurEvent { held, is_state: false });
            assert!(our.held.outlier || !held.outlier, "refused with CONFLICT");
            our.held = held;
        }
    }

    proptest! {
        #[test]
        fn an_applied_plan_makes_the_rooms_equal((homeserver, mut ours) in any_rooms()) {
            let plan = Plan::new(&homeserver, &ours);
            apply(&plan, &homeserver, &mut ours);
            ours.retain(|id, _| !plan.not_removable.contains(id));
            let ours: Homeserver = ours.into_iter().map(|(id, it)| (id, it.held)).collect();
            prop_assert_eq!(ours, homeserver);
        }

        #[test]
        fn equal_rooms_need_nothing(homeserver in any_rooms().prop_map(|it| it.0)) {
            let same = |held: &HeldAs| OurEvent { held: *held, is_state: true };
            let ours = homeserver.iter().map(|(id, it)| (id.clone(), same(it))).collect();
            prop_assert_eq!(Plan::new(&homeserver, &ours), Plan::default());
        }
    }
}

//! Random rooms: the order of the states does not matter, and the shortcuts change nothing.

use proptest::prelude::*;
use serde_json::json;

use super::drawing::{ALICE, BOB, CAROL, Draft, Drawing, Tip, member, power, topic};

/// The next event: its kind, its branch, and its sender.
#[derive(Debug, Clone)]
enum Step {
    Topic { branch: usize, by: usize },
    Member { branch: usize, by: usize, target: usize, membership: usize },
    Power { branch: usize, by: usize, bob: i64, carol: i64 },
    JoinRule { branch: usize, by: usize, rule: usize },
    Fork { branch: usize },
    Merge { branch: usize, with: usize },
}

const USERS: [&str; 5] = [ALICE, BOB, CAROL, "@dave:a", "@eve:b"];
const MEMBERSHIPS: [&str; 4] = ["join", "leave", "invite", "ban"];
const RULES: [&str; 2] = ["public", "invite"];

fn step() -> impl Strategy<Value = Step> {
    let (branch, by) = (0..6_usize, 0..USERS.len());
    let at = (branch.clone(), by);
    prop_oneof![
        3 => at.clone().prop_map(|(branch, by)| Step::Topic { branch, by }),
        6 => (at.clone(), 0..USERS.len(), 0..MEMBERSHIPS.len()).prop_map(
            |((branch, by), target, membership)| Step::Member { branch, by, target, membership }),
        3 => (at.clone(), 0..9_i64, 0..9_i64).prop_map(
            |((branch, by), bob, carol)| Step::Power { branch, by, bob, carol }),
        1 => (at, 0..RULES.len()).prop_map(
            |((branch, by), rule)| Step::JoinRule { branch, by, rule }),
        3 => branch.clone().prop_map(|branch| Step::Fork { branch }),
        2 => (branch.clone(), branch).prop_map(|(branch, with)| Step::Merge { branch, with }),
    ]
}

fn draw(version: &str, steps: &[Step]) -> (Drawing, Vec<Tip>) {
    let (mut room, start) = Drawing::new(version);
    let mut tips = vec![start];
    for (number, step) in steps.iter().enumerate() {
        let name = format!("event{number}");
        let (branch, draft) = match step {
            Step::Topic { branch, by } => (branch, topic(&name, USERS[*by])),
            Step::Member { branch, by, target, membership } => {
                (branch, member(&name, USERS[*by], USERS[*target], MEMBERSHIPS[*membership]))
            }
            Step::Power { branch, by, bob, carol } => {
                let mut content = room.power(bob * 10);
                content["users"][CAROL] = (carol * 10).into();
                (branch, power(&name, USERS[*by], content))
            }
            Step::JoinRule { branch, by, rule } => {
                let content = json!({ "join_rule": RULES[*rule] });
                let event_type = "m.room.join_rules";
                let sender = USERS[*by];
                (branch, Draft { name: &name, sender, event_type, state_key: "", content })
            }
            Step::Fork { branch } => {
                let tip = tips[branch % tips.len()].clone();
                tips.push(tip);
                continue;
            }
            Step::Merge { branch, with } => {
                let (one, other) = (branch % tips.len(), with % tips.len());
                tips[one] = room.merge(&[&tips[one], &tips[other]]);
                continue;
            }
        };
        let at = branch % tips.len();
        if let Some(tip) = room.try_send(&tips[at], draft) {
            tips[at] = tip;
        }
    }
    (room, tips)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_order_and_every_way_gives_the_same_state(
        version in prop::sample::select(vec!["1", "2", "3", "6", "8", "10", "11", "12"]),
        steps in prop::collection::vec(step(), 1..60),
        shuffle in prop::collection::vec(any::<usize>(), 8),
    ) {
        let (room, tips) = draw(version, &steps);
        let tips: Vec<&Tip> = tips.iter().take(8).collect();
        let merged = room.merge(&tips);
        let mut shuffled = tips.clone();
        for (at, with) in shuffle.iter().enumerate() {
            let (at, with) = (at % tips.len(), with % tips.len());
            shuffled.swap(at, with);
        }
        prop_assert_eq!(&room.merge(&shuffled).state, &merged.state);
        // A state that is given twice changes nothing.
        shuffled.push(tips[0]);
        prop_assert_eq!(&room.merge(&shuffled).state, &merged.state);
    }
}

//! Records round-trip, and their bytes never change.

use proptest::prelude::*;

use super::*;
use crate::{
    state::map::{MapKey, Membership, Node, Ptr, Value},
    store::{PrevEvent, keys::PAGE_EVENTS},
    visibility::HistoryVisibility,
};

fn node() -> impl Strategy<Value = EventNode> {
    let prev = prop_oneof![
        1 => Just(PrevEvent::Missing),
        4 => (1_000u32..2_000).prop_map(|it| PrevEvent::Held(EventNum(it))),
    ];
    let state = prop::option::of((0u32..).prop_map(StateNum));
    (any::<i64>(), any::<i64>(), 0u8..0xff, state, prop::collection::vec(prev, 0..5)).prop_map(
        |(depth, arrival, bits, state_after, prev_events)| EventNode {
            depth,
            arrival,
            flags: Flags::of_bits(bits),
            state_after,
            prev_events,
        },
    )
}

fn state_node() -> impl Strategy<Value = Node> {
    let value = prop_oneof![
        (any::<u32>(), 0u8..4).prop_map(|(event, membership)| Value::Event {
            event,
            membership: [
                Membership::NotAMember,
                Membership::Joined,
                Membership::Invited,
                Membership::Outside
            ][usize::from(membership)],
        }),
        any::<(u32, u32)>().prop_map(|(joined, invited)| Value::Server { joined, invited }),
    ];
    let ptr = any::<(u32, u32)>().prop_map(|(record, slot)| Ptr { record, slot });
    prop_oneof![
        prop::collection::vec((any::<[u8; 16]>().prop_map(MapKey), value), 0..9)
            .prop_map(Node::Leaf),
        (any::<u32>(), prop::collection::vec((0u8..16, ptr), 0..17))
            .prop_map(|(count, children)| Node::Inner { count, children }),
    ]
}

proptest! {
    #[test]
    fn pages_round_trip(nodes in prop::collection::vec((0u32..32, node()), 0..40)) {
        let mut page = Page::default();
        for (slot, node) in nodes {
            page.set(EventNum(10 * PAGE_EVENTS + slot), node);
        }
        prop_assert_eq!(Page::decode(10, &page.encode(10)), Ok(page));
    }

    #[test]
    fn states_round_trip(nodes in prop::collection::vec(state_node(), 1..20), before: Option<u32>) {
        let facts = StateFacts {
            before: before.map(StateNum),
            history_visibility: HistoryVisibility::Invited,
            events: 7,
        };
        let bytes = encode_state(facts, &nodes);
        prop_assert_eq!(decode_state_facts(&bytes), Ok(facts));
        for (slot, node) in (0u32..).zip(&nodes) {
            prop_assert_eq!(decode_state_node(&bytes, slot), Ok(node.clone()));
        }
        let behind = u32::try_from(nodes.len()).unwrap();
        prop_assert_eq!(decode_state_node(&bytes, behind), Err(Malformed));
    }

    #[test]
    fn decoding_any_bytes_does_not_panic(bytes: Vec<u8>, number: u32) {
        drop((Page::decode(number, &bytes), Room::decode(&bytes), decode_given(&bytes)));
        drop((decode_state_node(&bytes, number), decode_missing(&bytes)));
    }
}

#[test]
fn golden_room() {
    let mut room = Room::new("!a:b", "10");
    room.next_event = EventNum(300);
    room.next_state = StateNum(2);
    room.next_arrival = -1;
    room.soft_failed = 1;
    room.purged = 5;
    room.forward_extremities = 2;
    room.current_state = Some(StateNum(1));
    room.resolved_from = vec![StateNum(0)];
    room.unreadable = 6;
    room.last_known = vec![StateNum(1), StateNum(0)];
    room.known_over = vec![StateNum(3)];
    let bytes = room.encode();
    assert_eq!(
        bytes,
        b"\x04!a:b\x0210\xac\x02\x02\x01\x00\x00\x00\x01\x05\x02\x02\x01\x00\x06\x02\x01\x00\x01\x03"
    );
    assert_eq!(Room::decode(&bytes), Ok(room.clone()));
    let before = b"\x04!a:b\x0210\xac\x02\x02\x01\x00\x00\x00\x01\x05\x02\x07\xab\x02\x02\x01\x00";
    // Before format 4 there were no unreadable events.
    room.unreadable = 0;
    room.last_known.clear();
    room.known_over.clear();
    let mut room = Room2 { room, extremities: vec![EventNum(7), EventNum(299)] };
    assert_eq!(room.encode_2(), before);
    assert_eq!(Room2::decode_2(before), Ok(room.clone()));
    // Format 1 did not count what was purged.
    room.room.purged = 0;
    let bytes = b"\x04!a:b\x0210\xac\x02\x02\x01\x00\x00\x00\x01\x02\x07\xab\x02\x02\x01\x00";
    assert_eq!(Room2::decode_1(bytes), Ok(room));
}

#[test]
fn golden_page() {
    let mut page = Page::default();
    page.set(
        EventNum(33),
        EventNode {
            depth: 3,
            arrival: 33,
            flags: Flags { soft_failed: true, ..Flags::default() },
            state_after: Some(StateNum(4)),
            prev_events: vec![PrevEvent::Held(EventNum(31)), PrevEvent::Missing],
        },
    );
    assert_eq!(page.encode(1), b"\x02\xff\x04\x06\x00\x05\x02\x03\x00");
}

#[test]
fn golden_state() {
    let facts =
        StateFacts { before: None, history_visibility: HistoryVisibility::Joined, events: 1 };
    let value = Value::Event { event: 9, membership: Membership::Joined };
    let nodes = [Node::Leaf(vec![(MapKey([1; 16]), value)])];
    let mut expected = b"\x00\x03\x01\x01\x00\x00\x00\x14\x00\x01".to_vec();
    expected.extend([1; 16]);
    expected.extend(b"\x01\x09");
    assert_eq!(encode_state(facts, &nodes), expected);
}

#[test]
fn golden_given_state() {
    let given = vec![GivenEvent::Held(EventNum(4)), GivenEvent::Named("$a".into())];
    let bytes = encode_given(&given);
    assert_eq!(bytes, b"\x02\x05\x00\x02$a");
    assert_eq!(decode_given(&bytes), Ok(given));
}

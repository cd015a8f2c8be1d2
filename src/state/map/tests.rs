//! Properties of the map, compared with a plain `BTreeMap`.

use std::{cell::RefCell, collections::BTreeMap, convert::Infallible};

use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Heap(RefCell<BTreeMap<Ptr, Arc<Node>>>);

impl Nodes for Heap {
    type Error = Infallible;
    fn node(&self, at: Ptr) -> Result<Arc<Node>, Infallible> {
        Ok(Arc::clone(&self.0.borrow()[&at]))
    }
}

impl Heap {
    fn store(&self, record: u32, nodes: Vec<Node>) -> Ptr {
        for (slot, node) in (0u32..).zip(nodes) {
            self.0.borrow_mut().insert(Ptr { record, slot }, Arc::new(node));
        }
        Ptr { record, slot: 0 }
    }

    fn apply(&self, record: u32, base: Option<Ptr>, changes: &[(MapKey, Option<Value>)]) -> Ptr {
        let mut edit = MapEdit::new(self, base);
        for (key, value) in changes {
            edit.set(*key, *value).unwrap();
        }
        let nodes = edit.finish(record).unwrap();
        self.store(record, nodes)
    }

    /// The nodes below a root, without their positions.
    fn shape(&self, root: Ptr) -> String {
        match &*self.node(root).unwrap() {
            Node::Leaf(entries) => format!("{entries:?}"),
            Node::Inner { count, children } => {
                let below: Vec<_> =
                    children.iter().map(|(b, ptr)| format!("{b}:{}", self.shape(*ptr))).collect();
                format!("{count}[{}]", below.join(","))
            }
        }
    }
}

fn key() -> impl Strategy<Value = MapKey> {
    // Few distinct keys with long common prefixes make deep paths.
    (0u8..4, 0u8..40).prop_map(|(prefix, last)| {
        let mut bytes = [0; 16];
        bytes[0] = prefix * 0x11;
        bytes[1] = last;
        bytes[15] = last.wrapping_mul(7);
        MapKey(bytes)
    })
}

fn value() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        3 => (0u32..50).prop_map(|event| Some(Value::Event { event, membership: Membership::Joined })),
        1 => Just(None),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Vec<(MapKey, Option<Value>)>>> {
    prop::collection::vec(prop::collection::vec((key(), value()), 0..12), 1..30)
}

proptest! {
    #[test]
    fn it_holds_what_was_set(steps in steps()) {
        let heap = Heap::default();
        let mut model = BTreeMap::new();
        let mut root = heap.apply(0, None, &[]);
        for (record, changes) in (1u32..).zip(&steps) {
            root = heap.apply(record, Some(root), changes);
            for (key, value) in changes {
                match value {
                    Some(value) => { model.insert(*key, *value); }
                    None => { model.remove(key); }
                }
            }
            for key in changes.iter().map(|(key, _)| *key) {
                prop_assert_eq!(get(&heap, root, key).unwrap(), model.get(&key).copied());
            }
        }
        let all: Vec<_> = model.into_iter().collect();
        prop_assert_eq!(&entries(&heap, root, None, usize::MAX).unwrap(), &all);
        let mut paged = Vec::new();
        loop {
            let page = entries(&heap, root, paged.last().map(|(key, _)| *key), 3).unwrap();
            if page.is_empty() { break; }
            paged.extend(page);
        }
        prop_assert_eq!(paged, all);
    }

    #[test]
    fn its_shape_depends_on_its_content_alone(steps in steps()) {
        let heap = Heap::default();
        let mut model = BTreeMap::new();
        let mut root = heap.apply(0, None, &[]);
        for (record, changes) in (1u32..).zip(&steps) {
            root = heap.apply(record, Some(root), changes);
            for (key, value) in changes {
                match value {
                    Some(value) => { model.insert(*key, Some(*value)); }
                    None => { model.remove(key); }
                }
            }
        }
        let at_once: Vec<_> = model.into_iter().rev().collect();
        let fresh = heap.apply(1_000, None, &at_once);
        prop_assert_eq!(heap.shape(root), heap.shape(fresh));
        prop_assert!(diff(&heap, root, fresh).unwrap().is_empty());
    }

    #[test]
    fn a_difference_is_what_differs(
        base in steps(),
        left in prop::collection::vec((key(), value()), 0..12),
        right in prop::collection::vec((key(), value()), 0..12),
    ) {
        let heap = Heap::default();
        let mut root = heap.apply(0, None, &[]);
        for (record, changes) in (1u32..).zip(&base) {
            root = heap.apply(record, Some(root), changes);
        }
        let left = heap.apply(1_000, Some(root), &left);
        let right = heap.apply(1_001, Some(root), &right);
        let all = |root| -> BTreeMap<_, _> {
            entries(&heap, root, None, usize::MAX).unwrap().into_iter().collect()
        };
        let (on_left, on_right) = (all(left), all(right));
        let expected: Vec<_> = on_left.keys().chain(on_right.keys())
            .collect::<std::collections::BTreeSet<_>>().into_iter()
            .map(|key| Difference {
                key: *key,
                left: on_left.get(key).copied(),
                right: on_right.get(key).copied(),
            })
            .filter(|it| it.left != it.right)
            .collect();
        prop_assert_eq!(diff(&heap, left, right).unwrap(), expected);
    }
}

/// A change in a large map writes only one path.
#[test]
fn a_change_writes_one_path() {
    let heap = Heap::default();
    let many: Vec<_> = (0..20_000u32)
        .map(|event| {
            let key = MapKey::of_state("m.room.member", &format!("@user{event}:example.org"));
            (key, Some(Value::Event { event, membership: Membership::Joined }))
        })
        .collect();
    let root = heap.apply(0, None, &many);
    let mut edit = MapEdit::new(&heap, Some(root));
    edit.set(
        MapKey::of_state("m.room.topic", ""),
        Some(Value::Event { event: 20_000, membership: Membership::NotAMember }),
    )
    .unwrap();
    let written = edit.finish(1).unwrap();
    assert!(written.len() <= 6, "{} nodes written", written.len());
}

#[test]
fn keys_are_apart() {
    let keys = [
        MapKey::of_state("a", "bc"),
        MapKey::of_state("ab", "c"),
        MapKey::of_state("abc", ""),
        MapKey::of_server("abc"),
    ];
    for (index, key) in keys.iter().enumerate() {
        assert!(keys.iter().skip(index + 1).all(|other| other != key));
    }
}

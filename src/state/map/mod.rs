//! The room state as a persistent map: a changed entry makes a new root that shares all other nodes
//! with the old one.
//!
//! The map is a hash trie with sixteen branches over 128-bit key hashes. Its shape depends only on
//! its content, not on the order of changes, so two states are equal exactly if no difference is
//! found, and shared parts are skipped by comparing pointers. Beside the state events, the map
//! contains the numbers of joined and invited users of each server: whether a server may see an
//! event is then a look-up of a few nodes, whatever the size of the room.
//!
//! Pure: nodes are fetched through [`Nodes`], new ones are returned by [`MapEdit::finish`].

mod map_edit;

use std::{collections::BTreeMap, sync::Arc};

pub use map_edit::MapEdit;
use sha2::{Digest as _, Sha256};

use crate::num;

/// The most entries of a leaf. A node with more entries is an inner node, so the content alone
/// determines the shape.
const LEAF_ENTRIES: usize = 8;
/// The greatest depth of a node: the number of nibbles in a key hash.
const MAX_DEPTH: usize = 32;

/// A hashed key of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MapKey(pub [u8; 16]);

impl MapKey {
    /// The key of a state event. The length of the first part is hashed too, so different parts never
    /// give the same input.
    #[must_use]
    pub fn of_state(event_type: &str, state_key: &str) -> Self {
        Self::hashed(b"state", event_type, state_key)
    }

    /// The key of a server's member counts.
    #[must_use]
    pub fn of_server(server_name: &str) -> Self {
        Self::hashed(b"server", server_name, "")
    }

    fn hashed(kind: &[u8], first: &str, second: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(kind);
        hash.update(num::u64(first.len()).to_be_bytes());
        hash.update(first.as_bytes());
        hash.update(second.as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut key = [0; 16];
        key.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Self(key)
    }

    /// The branch that leads to the key from an inner node at a depth.
    pub(crate) fn branch(self, depth: usize) -> u8 {
        let byte = self.0.get(depth / 2).copied().unwrap_or(0);
        if depth.is_multiple_of(2) { byte >> 4 } else { byte & 0xf }
    }
}

/// The membership in a member event, as far as access decisions need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// The event is not a member event.
    NotAMember,
    /// The membership is `join`.
    Joined,
    /// The membership is `invite`.
    Invited,
    /// Any other membership: `leave`, `ban`, `knock`, or an invalid one.
    Outside,
}

/// A value in the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A state event of the room.
    Event {
        /// The number of the event in its room.
        event: u32,
        /// The membership in the event.
        membership: Membership,
    },
    /// The numbers of users of a server in the room; at least one is not zero.
    Server {
        /// The number of joined users.
        joined: u32,
        /// The number of invited users.
        invited: u32,
    },
}

/// The position of a stored node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ptr {
    /// The number of the record in its room.
    pub record: u32,
    /// The position within the record; the root of the record's map is at 0.
    pub slot: u32,
}

/// A node of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// The entries of a leaf, in the order of their keys.
    Leaf(Vec<(MapKey, Value)>),
    /// An inner node and its children.
    Inner {
        /// The number of entries below this node.
        count: u32,
        /// The next nibble of the keys, and the child for it, in the order of nibbles.
        children: Vec<(u8, Ptr)>,
    },
}

/// Reads the nodes of stored maps.
pub trait Nodes {
    /// Why a node cannot be read.
    type Error;

    /// Reads a node that a root or another node refers to.
    fn node(&self, at: Ptr) -> Result<Arc<Node>, Self::Error>;
}

/// The value of a key; `None` if the map does not contain it.
pub fn get<N: Nodes>(nodes: &N, root: Ptr, key: MapKey) -> Result<Option<Value>, N::Error> {
    get_below(nodes, root, key, 0)
}

/// The value of a key below a node at a given depth.
fn get_below<N: Nodes>(
    nodes: &N,
    from: Ptr,
    key: MapKey,
    from_depth: usize,
) -> Result<Option<Value>, N::Error> {
    let mut at = from;
    for depth in from_depth..=MAX_DEPTH {
        match &*nodes.node(at)? {
            Node::Leaf(entries) => {
                return Ok(entries.iter().find(|(it, _)| *it == key).map(|(_, value)| *value));
            }
            Node::Inner { children, .. } => {
                match children.iter().find(|(branch, _)| *branch == key.branch(depth)) {
                    Some((_, child)) => at = *child,
                    None => return Ok(None),
                }
            }
        }
    }
    Ok(None)
}

/// The entries behind a key (from the start if it is `None`), in the order of their keys, at most
/// `limit` of them.
pub fn entries<N: Nodes>(
    nodes: &N,
    root: Ptr,
    after: Option<MapKey>,
    limit: usize,
) -> Result<Vec<(MapKey, Value)>, N::Error> {
    let mut found = Vec::new();
    // Depth first, with the smallest branch on top. Beside each node: the length of the path that it
    // shares with `after`, or `None` if all its entries are behind `after`. Along the shared path,
    // smaller branches are left out.
    let mut stack = vec![(root, after.map(|_| 0))];
    while let Some((at, on_path)) = stack.pop() {
        match &*nodes.node(at)? {
            Node::Leaf(leaf) => {
                let fresh = leaf.iter().filter(|(key, _)| after.is_none_or(|it| *key > it));
                found.extend(fresh);
            }
            Node::Inner { children, .. } => {
                for &(branch, child) in children.iter().rev() {
                    match (on_path, after) {
                        (Some(depth), Some(after)) if branch < after.branch(depth) => {}
                        (Some(depth), Some(after)) if branch == after.branch(depth) => {
                            stack.push((child, Some(depth + 1)));
                        }
                        _ => stack.push((child, None)),
                    }
                }
            }
        }
        if found.len() >= limit {
            found.truncate(limit);
            break;
        }
    }
    Ok(found)
}

/// A key whose value differs between two maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key that differs.
    pub key: MapKey,
    /// The value in the first map; `None` if it does not contain the key.
    pub left: Option<Value>,
    /// The value in the second map; `None` if it does not contain the key.
    pub right: Option<Value>,
}

/// The keys whose values differ between two maps, in order. The cost depends only on the number of
/// differences.
pub fn diff<N: Nodes>(nodes: &N, left: Ptr, right: Ptr) -> Result<Vec<Difference>, N::Error> {
    let mut found = Vec::new();
    let mut stack = vec![(left, right)];
    while let Some((left, right)) = stack.pop() {
        if left == right {
            continue;
        }
        match (&*nodes.node(left)?, &*nodes.node(right)?) {
            (Node::Inner { children: left, .. }, Node::Inner { children: right, .. }) => {
                for branch in 0..16 {
                    let child = |of: &[(u8, Ptr)]| {
                        of.iter().find(|(it, _)| *it == branch).map(|(_, child)| *child)
                    };
                    match (child(left), child(right)) {
                        (Some(left), Some(right)) => stack.push((left, right)),
                        (Some(only), None) => {
                            let all = entries(nodes, only, None, usize::MAX)?;
                            found.extend(all.into_iter().map(|(key, value)| Difference {
                                key,
                                left: Some(value),
                                right: None,
                            }));
                        }
                        (None, Some(only)) => {
                            let all = entries(nodes, only, None, usize::MAX)?;
                            found.extend(all.into_iter().map(|(key, value)| Difference {
                                key,
                                left: None,
                                right: Some(value),
                            }));
                        }
                        (None, None) => {}
                    }
                }
            }
            _ => {
                let mut merged: BTreeMap<MapKey, Difference> = BTreeMap::new();
                let empty = |key| Difference { key, left: None, right: None };
                for (key, value) in entries(nodes, left, None, usize::MAX)? {
                    merged.entry(key).or_insert(empty(key)).left = Some(value);
                }
                for (key, value) in entries(nodes, right, None, usize::MAX)? {
                    merged.entry(key).or_insert(empty(key)).right = Some(value);
                }
                found.extend(merged.into_values().filter(|it| it.left != it.right));
            }
        }
    }
    found.sort_by_key(|it| it.key);
    Ok(found)
}

#[cfg(test)]
mod tests;

//! The room state as a persistent map: changing an entry makes a new root that shares every
//! other node with the old one.
//!
//! A hash trie of sixteen branches over 128-bit key hashes. Its shape depends only on what it
//! holds, never on the order in which that came, so two states are equal exactly when no
//! difference is found, and shared parts are skipped by comparing pointers. Beside the state
//! events it holds, for each server, how many of its users are joined and invited: whether a
//! server may see an event is then a lookup of a handful of nodes, whatever the room's size.
//!
//! Pure: nodes are fetched through [`Nodes`], new ones are handed back by [`Edit::finish`].

mod edit;

use std::{collections::BTreeMap, sync::Arc};

pub use edit::Edit;
use sha2::{Digest as _, Sha256};

/// The greatest number of entries in a leaf. A node with more of them is an inner node, one with
/// fewer is a leaf: the shape has no other freedom.
const LEAF_ENTRIES: usize = 8;
/// Nibbles in a key hash, so the greatest depth of a node.
const MAX_DEPTH: usize = 32;

/// A hashed key of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub [u8; 16]);

impl Key {
    /// The key of a state event. Neither part can hold NUL ambiguously: the length of the first
    /// is part of what is hashed.
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
        hash.update(u64::try_from(first.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(first.as_bytes());
        hash.update(second.as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut key = [0; 16];
        key.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Self(key)
    }

    fn branch(self, depth: usize) -> u8 {
        let byte = self.0.get(depth / 2).copied().unwrap_or(0);
        if depth.is_multiple_of(2) { byte >> 4 } else { byte & 0xf }
    }
}

/// What a member event says, as far as serving needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Not a member event.
    NotAMember,
    /// `join`.
    Joined,
    /// `invite`.
    Invited,
    /// Anything else: `leave`, `ban`, `knock`, or not understood.
    Outside,
}

/// What the map holds under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// The state event, by its number in the room.
    Event {
        /// Number of the event in its room.
        event: u32,
        /// Its membership, if it is a member event.
        membership: Membership,
    },
    /// How many users of a server are in the room. Never both zero.
    Server {
        /// Joined users.
        joined: u32,
        /// Invited users.
        invited: u32,
    },
}

/// Where a stored node lies: a record and a place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ptr {
    /// Number of the record in its room.
    pub record: u32,
    /// Place within the record; the root of a record's map is at place 0.
    pub slot: u32,
}

/// A stored node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Entries, ordered by key.
    Leaf(Vec<(Key, Value)>),
    /// Branches, ordered, and the number of entries below.
    Inner {
        /// Entries below this node.
        count: u32,
        /// The next nibble of the keys, and the node below.
        children: Vec<(u8, Ptr)>,
    },
}

/// Where nodes come from.
pub trait Nodes {
    /// What can go wrong when a node is fetched.
    type Error;

    /// Fetches a node that some root refers to.
    ///
    /// # Errors
    /// When the node cannot be read.
    fn node(&self, at: Ptr) -> Result<Arc<Node>, Self::Error>;
}

/// The value of a key.
///
/// # Errors
/// When a node cannot be read.
pub fn get<N: Nodes>(nodes: &N, root: Ptr, key: Key) -> Result<Option<Value>, N::Error> {
    get_below(nodes, root, key, 0)
}

/// The value of a key below a node that lies at a depth.
fn get_below<N: Nodes>(
    nodes: &N,
    from: Ptr,
    key: Key,
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

/// All entries after a key (from the start if there is none), in order of their keys, at most
/// `limit` of them.
///
/// # Errors
/// When a node cannot be read.
pub fn entries<N: Nodes>(
    nodes: &N,
    root: Ptr,
    after: Option<Key>,
    limit: usize,
) -> Result<Vec<(Key, Value)>, N::Error> {
    let mut found = Vec::new();
    // Depth first, smallest branch on top. Along the path of `after`, smaller branches are left
    // out: `depth` says how far the node's path agrees with it, `None` that it lies behind it.
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

/// A key whose value differs between two maps, with its value on either side.
pub type Difference = (Key, Option<Value>, Option<Value>);

/// The keys whose values differ, in order. Costs no more than what differs.
///
/// # Errors
/// When a node cannot be read.
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
                            found.extend(all.into_iter().map(|(key, it)| (key, Some(it), None)));
                        }
                        (None, Some(only)) => {
                            let all = entries(nodes, only, None, usize::MAX)?;
                            found.extend(all.into_iter().map(|(key, it)| (key, None, Some(it))));
                        }
                        (None, None) => {}
                    }
                }
            }
            _ => {
                let mut merged: BTreeMap<Key, (Option<Value>, Option<Value>)> = BTreeMap::new();
                for (key, value) in entries(nodes, left, None, usize::MAX)? {
                    merged.entry(key).or_default().0 = Some(value);
                }
                for (key, value) in entries(nodes, right, None, usize::MAX)? {
                    merged.entry(key).or_default().1 = Some(value);
                }
                let differing = merged.into_iter().filter(|(_, (left, right))| left != right);
                found.extend(differing.map(|(key, (left, right))| (key, left, right)));
            }
        }
    }
    found.sort_by_key(|(key, ..)| *key);
    Ok(found)
}

#[cfg(test)]
mod tests;

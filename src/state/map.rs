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

use std::collections::BTreeMap;

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
    fn node(&self, at: Ptr) -> Result<Node, Self::Error>;
}

/// The value of a key.
///
/// # Errors
/// When a node cannot be read.
pub fn get<N: Nodes>(nodes: &N, root: Ptr, key: Key) -> Result<Option<Value>, N::Error> {
    let mut at = root;
    for depth in 0..=MAX_DEPTH {
        match nodes.node(at)? {
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
        match nodes.node(at)? {
            Node::Leaf(leaf) => {
                let fresh = leaf.into_iter().filter(|(key, _)| after.is_none_or(|it| *key > it));
                found.extend(fresh);
            }
            Node::Inner { children, .. } => {
                for (branch, child) in children.into_iter().rev() {
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
        match (nodes.node(left)?, nodes.node(right)?) {
            (Node::Inner { children: left, .. }, Node::Inner { children: right, .. }) => {
                for branch in 0..16 {
                    let child = |of: &[(u8, Ptr)]| {
                        of.iter().find(|(it, _)| *it == branch).map(|(_, child)| *child)
                    };
                    match (child(&left), child(&right)) {
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

/// A map being changed. Nothing is stored before [`finish`](Edit::finish).
pub struct Edit<'n, N: Nodes> {
    nodes: &'n N,
    root: Tree,
    changed: bool,
}

/// A node of a map being changed.
enum Tree {
    Stored(Ptr),
    Leaf(Vec<(Key, Value)>),
    Inner(Vec<(u8, Tree)>),
}

impl<'n, N: Nodes> Edit<'n, N> {
    /// Starts from a stored map, or from the empty one.
    pub fn new(nodes: &'n N, base: Option<Ptr>) -> Self {
        Self { nodes, root: base.map_or(Tree::Leaf(Vec::new()), Tree::Stored), changed: false }
    }

    /// The value of a key as it stands now.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn get(&self, key: Key) -> Result<Option<Value>, N::Error> {
        let mut at = &self.root;
        for depth in 0..=MAX_DEPTH {
            match at {
                Tree::Stored(ptr) => return get_below(self.nodes, *ptr, key, depth),
                Tree::Leaf(leaf) => {
                    return Ok(leaf.iter().find(|(it, _)| *it == key).map(|(_, value)| *value));
                }
                Tree::Inner(children) => {
                    match children.iter().find(|(branch, _)| *branch == key.branch(depth)) {
                        Some((_, child)) => at = child,
                        None => return Ok(None),
                    }
                }
            }
        }
        Ok(None)
    }

    /// Sets a key, or removes it.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn set(&mut self, key: Key, value: Option<Value>) -> Result<(), N::Error> {
        if self.get(key)? == value {
            return Ok(());
        }
        self.changed = true;
        set_below(self.nodes, &mut self.root, 0, (key, value))
    }

    /// Whether anything differs from where it started.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// The new nodes, to be stored as record number `record`; the root is the first of them.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn finish(self, record: u32) -> Result<Vec<Node>, N::Error> {
        let mut out = Vec::new();
        let root = match self.root {
            // A record always has a root of its own, so that it can be named by its number.
            Tree::Stored(ptr) => {
                out.push(self.nodes.node(ptr)?);
                return Ok(out);
            }
            other => other,
        };
        store(self.nodes, root, record, &mut out)?;
        Ok(out)
    }
}

fn get_below<N: Nodes>(
    nodes: &N,
    from: Ptr,
    key: Key,
    from_depth: usize,
) -> Result<Option<Value>, N::Error> {
    let mut at = from;
    for depth in from_depth..=MAX_DEPTH {
        match nodes.node(at)? {
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

fn set_below<N: Nodes>(
    nodes: &N,
    tree: &mut Tree,
    depth: usize,
    (key, value): (Key, Option<Value>),
) -> Result<(), N::Error> {
    load(nodes, tree)?;
    match tree {
        Tree::Stored(_) => {}
        Tree::Leaf(entries) => {
            entries.retain(|(it, _)| *it != key);
            if let Some(value) = value {
                let at = entries.partition_point(|(it, _)| *it < key);
                entries.insert(at, (key, value));
            }
            if entries.len() > LEAF_ENTRIES && depth < MAX_DEPTH {
                *tree = split(std::mem::take(entries), depth);
            }
        }
        Tree::Inner(children) => {
            let branch = key.branch(depth);
            let at = children.partition_point(|(it, _)| *it < branch);
            match children.get_mut(at) {
                Some((it, child)) if *it == branch => {
                    set_below(nodes, child, depth + 1, (key, value))?;
                    if matches!(child, Tree::Leaf(entries) if entries.is_empty()) {
                        children.remove(at);
                    }
                }
                _ => {
                    if let Some(value) = value {
                        children.insert(at, (branch, Tree::Leaf(vec![(key, value)])));
                    }
                }
            }
            if value.is_none() {
                let all = collect(nodes, children)?;
                if let Some(entries) = all {
                    *tree = Tree::Leaf(entries);
                }
            }
        }
    }
    Ok(())
}

/// Replaces a stored node by its content.
fn load<N: Nodes>(nodes: &N, tree: &mut Tree) -> Result<(), N::Error> {
    if let Tree::Stored(ptr) = tree {
        *tree = match nodes.node(*ptr)? {
            Node::Leaf(entries) => Tree::Leaf(entries),
            Node::Inner { children, .. } => Tree::Inner(
                children.into_iter().map(|(branch, ptr)| (branch, Tree::Stored(ptr))).collect(),
            ),
        };
    }
    Ok(())
}

fn split(entries: Vec<(Key, Value)>, depth: usize) -> Tree {
    let mut children: Vec<(u8, Tree)> = Vec::new();
    for (key, value) in entries {
        match children.last_mut() {
            Some((branch, Tree::Leaf(leaf))) if *branch == key.branch(depth) => {
                leaf.push((key, value));
            }
            _ => children.push((key.branch(depth), Tree::Leaf(vec![(key, value)]))),
        }
    }
    for (_, child) in &mut children {
        if let Tree::Leaf(leaf) = child
            && leaf.len() > LEAF_ENTRIES
            && depth + 1 < MAX_DEPTH
        {
            *child = split(std::mem::take(leaf), depth + 1);
        }
    }
    Tree::Inner(children)
}

/// The entries below, if they are few enough for a leaf.
fn collect<N: Nodes>(
    nodes: &N,
    children: &[(u8, Tree)],
) -> Result<Option<Vec<(Key, Value)>>, N::Error> {
    let mut all = Vec::new();
    for (_, child) in children {
        match child {
            Tree::Leaf(entries) => all.extend(entries.iter().copied()),
            Tree::Stored(ptr) => match nodes.node(*ptr)? {
                Node::Leaf(entries) => all.extend(entries),
                Node::Inner { .. } => return Ok(None),
            },
            Tree::Inner(_) => return Ok(None),
        }
        if all.len() > LEAF_ENTRIES {
            return Ok(None);
        }
    }
    Ok(Some(all))
}

/// Writes a changed tree, parents before children; gives back how many entries it holds.
fn store<N: Nodes>(
    nodes: &N,
    tree: Tree,
    record: u32,
    out: &mut Vec<Node>,
) -> Result<(u32, Ptr), N::Error> {
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let ptr = Ptr { record, slot: number(out.len()) };
    match tree {
        Tree::Stored(ptr) => {
            let count = match nodes.node(ptr)? {
                Node::Leaf(entries) => number(entries.len()),
                Node::Inner { count, .. } => count,
            };
            Ok((count, ptr))
        }
        Tree::Leaf(entries) => {
            let count = number(entries.len());
            out.push(Node::Leaf(entries));
            Ok((count, ptr))
        }
        Tree::Inner(children) => {
            let at = out.len();
            out.push(Node::Leaf(Vec::new()));
            let mut count = 0u32;
            let mut stored = Vec::with_capacity(children.len());
            for (branch, child) in children {
                let (below, ptr) = store(nodes, child, record, out)?;
                count = count.saturating_add(below);
                stored.push((branch, ptr));
            }
            if let Some(place) = out.get_mut(at) {
                *place = Node::Inner { count, children: stored };
            }
            Ok((count, ptr))
        }
    }
}

#[cfg(test)]
mod tests;

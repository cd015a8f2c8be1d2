//! Changing a map: a tree of changed nodes over the stored ones, until it is finished.

use super::{Key, LEAF_ENTRIES, MAX_DEPTH, Node, Nodes, Ptr, Value, get_below};

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
                out.push(Node::clone(&*self.nodes.node(ptr)?));
                return Ok(out);
            }
            other => other,
        };
        store(self.nodes, root, record, &mut out)?;
        Ok(out)
    }
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
        *tree = match &*nodes.node(*ptr)? {
            Node::Leaf(entries) => Tree::Leaf(entries.clone()),
            Node::Inner { children, .. } => Tree::Inner(
                children.iter().map(|(branch, ptr)| (*branch, Tree::Stored(*ptr))).collect(),
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
            Tree::Stored(ptr) => match &*nodes.node(*ptr)? {
                Node::Leaf(entries) => all.extend(entries.iter().copied()),
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
            let count = match &*nodes.node(ptr)? {
                Node::Leaf(entries) => number(entries.len()),
                Node::Inner { count, .. } => *count,
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

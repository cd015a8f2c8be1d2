//! Changes to a map: a tree of changed nodes over the stored ones, until they are written.

use std::cmp::Ordering;

use super::{LEAF_ENTRIES, MAX_DEPTH, MapKey, Node, Nodes, Ptr, Value, get_below};

/// A map that is being changed. No node is stored before [`finish`](MapEdit::finish).
pub struct MapEdit<'n, N: Nodes> {
    nodes: &'n N,
    root: EditedNode,
    changed: bool,
}

/// A node of a map that is being changed.
enum EditedNode {
    Stored(Ptr),
    Leaf(Vec<(MapKey, Value)>),
    Inner {
        /// The number of entries below the node.
        count: u32,
        children: Vec<(u8, EditedNode)>,
    },
}

impl<'n, N: Nodes> MapEdit<'n, N> {
    /// Starts from a stored map, or from the empty map if `base` is `None`.
    pub fn new(nodes: &'n N, base: Option<Ptr>) -> Self {
        Self {
            nodes,
            root: base.map_or(EditedNode::Leaf(Vec::new()), EditedNode::Stored),
            changed: false,
        }
    }

    /// The value of a key, with all changes so far; `None` if the map does not contain it.
    pub fn get(&self, key: MapKey) -> Result<Option<Value>, N::Error> {
        let mut at = &self.root;
        for depth in 0..=MAX_DEPTH {
            match at {
                EditedNode::Stored(ptr) => return get_below(self.nodes, *ptr, key, depth),
                EditedNode::Leaf(leaf) => {
                    return Ok(leaf.iter().find(|(it, _)| *it == key).map(|(_, value)| *value));
                }
                EditedNode::Inner { children, .. } => {
                    match children.iter().find(|(branch, _)| *branch == key.branch(depth)) {
                        Some((_, child)) => at = child,
                        None => return Ok(None),
                    }
                }
            }
        }
        Ok(None)
    }

    /// Sets the value of a key; `None` removes the key.
    pub fn set(&mut self, key: MapKey, value: Option<Value>) -> Result<(), N::Error> {
        if self.get(key)? == value {
            return Ok(());
        }
        self.changed = true;
        set_below(self.nodes, &mut self.root, 0, key, value)?;
        Ok(())
    }

    /// Whether a change was made. Later changes may have undone it.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// The new nodes, to be stored as the record with number `record`; the first is the root.
    pub fn finish(self, record: u32) -> Result<Vec<Node>, N::Error> {
        let mut out = Vec::new();
        let root = match self.root {
            // A record always has a root of its own, so that its number identifies the map.
            EditedNode::Stored(ptr) => {
                out.push(Node::clone(&*self.nodes.node(ptr)?));
                return Ok(out);
            }
            other => other,
        };
        store(root, record, &mut out);
        Ok(out)
    }
}

/// How the number of entries below a node changes.
#[derive(Clone, Copy)]
enum CountChanged {
    Added,
    Replaced,
    Removed,
}

impl CountChanged {
    fn apply(self, count: &mut u32) {
        match self {
            Self::Added => *count = count.saturating_add(1),
            Self::Replaced => {}
            Self::Removed => *count = count.saturating_sub(1),
        }
    }
}

fn set_below<N: Nodes>(
    nodes: &N,
    tree: &mut EditedNode,
    depth: usize,
    key: MapKey,
    value: Option<Value>,
) -> Result<CountChanged, N::Error> {
    load(nodes, tree)?;
    let mut change = CountChanged::Replaced;
    match tree {
        EditedNode::Stored(_) => {}
        EditedNode::Leaf(entries) => {
            let before = entries.len();
            entries.retain(|(it, _)| *it != key);
            if let Some(value) = value {
                let at = entries.partition_point(|(it, _)| *it < key);
                entries.insert(at, (key, value));
            }
            change = match entries.len().cmp(&before) {
                Ordering::Greater => CountChanged::Added,
                Ordering::Equal => CountChanged::Replaced,
                Ordering::Less => CountChanged::Removed,
            };
            if entries.len() > LEAF_ENTRIES && depth < MAX_DEPTH {
                *tree = split(std::mem::take(entries), depth);
            }
        }
        EditedNode::Inner { count, children } => {
            let branch = key.branch(depth);
            let at = children.partition_point(|(it, _)| *it < branch);
            match children.get_mut(at) {
                Some((it, child)) if *it == branch => {
                    change = set_below(nodes, child, depth + 1, key, value)?;
                    if matches!(child, EditedNode::Leaf(entries) if entries.is_empty()) {
                        children.remove(at);
                    }
                }
                _ => {
                    if let Some(value) = value {
                        children.insert(at, (branch, EditedNode::Leaf(vec![(key, value)])));
                        change = CountChanged::Added;
                    }
                }
            }
            change.apply(count);
            if value.is_none() {
                let all = collect(nodes, children)?;
                if let Some(entries) = all {
                    *tree = EditedNode::Leaf(entries);
                }
            }
        }
    }
    Ok(change)
}

/// Replaces a pointer to a stored node by the content of the node.
fn load<N: Nodes>(nodes: &N, tree: &mut EditedNode) -> Result<(), N::Error> {
    if let EditedNode::Stored(ptr) = tree {
        *tree = match &*nodes.node(*ptr)? {
            Node::Leaf(entries) => EditedNode::Leaf(entries.clone()),
            Node::Inner { count, children } => {
                let stored = children.iter().map(|(it, ptr)| (*it, EditedNode::Stored(*ptr)));
                EditedNode::Inner { count: *count, children: stored.collect() }
            }
        };
    }
    Ok(())
}

fn split(entries: Vec<(MapKey, Value)>, depth: usize) -> EditedNode {
    let mut children: Vec<(u8, EditedNode)> = Vec::new();
    let count = number(entries.len());
    for (key, value) in entries {
        match children.last_mut() {
            Some((branch, EditedNode::Leaf(leaf))) if *branch == key.branch(depth) => {
                leaf.push((key, value));
            }
            _ => children.push((key.branch(depth), EditedNode::Leaf(vec![(key, value)]))),
        }
    }
    for (_, child) in &mut children {
        if let EditedNode::Leaf(leaf) = child
            && leaf.len() > LEAF_ENTRIES
            && depth + 1 < MAX_DEPTH
        {
            *child = split(std::mem::take(leaf), depth + 1);
        }
    }
    EditedNode::Inner { count, children }
}

/// All entries below some children; `None` if they are too many for a leaf.
fn collect<N: Nodes>(
    nodes: &N,
    children: &[(u8, EditedNode)],
) -> Result<Option<Vec<(MapKey, Value)>>, N::Error> {
    let mut all = Vec::new();
    for (_, child) in children {
        match child {
            EditedNode::Leaf(entries) => all.extend(entries.iter().copied()),
            EditedNode::Stored(ptr) => match &*nodes.node(*ptr)? {
                Node::Leaf(entries) => all.extend(entries.iter().copied()),
                Node::Inner { .. } => return Ok(None),
            },
            EditedNode::Inner { .. } => return Ok(None),
        }
        if all.len() > LEAF_ENTRIES {
            return Ok(None);
        }
    }
    Ok(Some(all))
}

/// Appends the changed nodes of a tree to `out`, parents before children. Returns the position of the
/// tree's root.
fn store(tree: EditedNode, record: u32, out: &mut Vec<Node>) -> Ptr {
    let root = Ptr { record, slot: number(out.len()) };
    match tree {
        EditedNode::Stored(root) => return root,
        EditedNode::Leaf(entries) => out.push(Node::Leaf(entries)),
        EditedNode::Inner { count, children } => {
            let at = out.len();
            out.push(Node::Leaf(Vec::new()));
            let children = children.into_iter();
            let stored = children.map(|(branch, child)| (branch, store(child, record, out)));
            let stored = stored.collect();
            if let Some(node) = out.get_mut(at) {
                *node = Node::Inner { count, children: stored };
            }
        }
    }
    root
}

fn number(length: usize) -> u32 {
    u32::try_from(length).expect("a map has less than 2^32 entries")
}

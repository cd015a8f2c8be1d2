//! The layout of a picture: a row for each event, newest first, every event above all that it
//! references; beside each other, lanes for branches that are open at the same time.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::{DrawnEvent, MAX_GAPS, Picture};

/// The symbol in a row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Symbol<'p> {
    Event(&'p DrawnEvent),
    /// The id of a predecessor that is not placed in the graph.
    Gap(&'p str),
}

impl<'p> Symbol<'p> {
    fn id(self) -> &'p str {
        match self {
            Self::Event(event) => &event.event_id,
            Self::Gap(event_id) => event_id,
        }
    }
}

/// A row of the picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'p> {
    pub(super) symbol: Symbol<'p>,
    pub(super) lane: usize,
    /// The number of the branch, for its colour.
    pub(super) branch: usize,
    /// The number of predecessors that are not in the picture.
    pub(super) beyond: usize,
}

/// A line from an event to its predecessor: down from row `from`, through lane `via`, to row `to`.
#[derive(Clone, Copy, Debug)]
pub(super) struct EdgeLine {
    pub(super) from: usize,
    pub(super) via: usize,
    pub(super) to: usize,
    pub(super) branch: usize,
}

/// The rows and lines of a picture.
#[derive(Debug, Default)]
pub(super) struct Layout<'p> {
    pub(super) rows: Vec<Row<'p>>,
    pub(super) edges: Vec<EdgeLine>,
    pub(super) lanes: usize,
    /// Events that are not placed in the graph: they have no lines.
    pub(super) loose: Vec<&'p DrawnEvent>,
}

/// A lane that is in use: the predecessor that it leads to, and the rows that it starts from.
struct Lane<'p> {
    to: &'p str,
    branch: usize,
    from: Vec<usize>,
}

pub(super) fn layout(picture: &Picture) -> Layout<'_> {
    let (nodes, edges) = graph(picture);
    let mut layout = Layout::default();
    let mut lanes: Vec<Option<Lane<'_>>> = Vec::new();
    let mut branches = 0;
    for node in in_order(&nodes, &edges) {
        let row = layout.rows.len();
        let leads_here =
            |lane: &Option<Lane<'_>>| lane.as_ref().is_some_and(|it| it.to == node.id());
        let found = lanes.iter().position(leads_here);
        let lane = found.unwrap_or_else(|| free(&mut lanes));
        let ended = lanes.get_mut(lane).and_then(Option::take);
        let branch = ended.as_ref().map_or(branches, |it| it.branch);
        branches += usize::from(found.is_none());
        for from in ended.into_iter().flat_map(|it| it.from) {
            layout.edges.push(EdgeLine { from, via: lane, to: row, branch });
        }
        let prevs = edges.get(node.id()).map(Vec::as_slice).unwrap_or_default();
        for (position, prev) in prevs.iter().enumerate() {
            let open = lanes.iter_mut().flatten().find(|it| it.to == *prev);
            if let Some(open) = open {
                open.from.push(row);
                continue;
            }
            // The first predecessor continues the event's own lane.
            let own = position == 0 || lanes.get(lane).is_some_and(Option::is_none);
            let at = if own { lane } else { free(&mut lanes) };
            let of = if own { branch } else { branches };
            branches += usize::from(!own);
            if let Some(slot) = lanes.get_mut(at) {
                *slot = Some(Lane { to: prev, branch: of, from: vec![row] });
            }
        }
        layout.lanes = layout.lanes.max(lanes.len());
        let beyond = match node {
            Symbol::Event(event) => {
                let distinct: BTreeSet<&String> = event.prev_events.iter().collect();
                distinct.len().saturating_sub(prevs.len())
            }
            Symbol::Gap(_) => 0,
        };
        layout.rows.push(Row { symbol: node, lane, branch, beyond });
    }
    layout.loose = picture.events.iter().filter(|it| it.marks.outlier).collect();
    layout.loose.sort_by_key(|it| (it.arrival, &it.event_id));
    layout
}

/// The leftmost lane that is not in use.
fn free(lanes: &mut Vec<Option<Lane<'_>>>) -> usize {
    lanes.iter().position(Option::is_none).unwrap_or_else(|| {
        lanes.push(None);
        lanes.len() - 1
    })
}

/// The predecessors of each event that are in the picture, by id.
type Edges<'p> = BTreeMap<&'p str, Vec<&'p str>>;

/// The placed events and gaps of a picture, and the edges between them.
fn graph(picture: &Picture) -> (Vec<Symbol<'_>>, Edges<'_>) {
    let placed = picture.events.iter().filter(|it| !it.marks.outlier);
    let ids: BTreeSet<&str> = placed.clone().map(|it| &*it.event_id).collect();
    let mut nodes = Vec::new();
    let mut edges = Edges::new();
    let mut gaps = BTreeSet::new();
    for event in placed {
        nodes.push(Symbol::Event(event));
        let mut prevs = Vec::new();
        for prev in event.prev_events.iter().map(|it| &**it) {
            let is_gap = picture.missing.contains(prev) && !ids.contains(prev);
            if is_gap && !gaps.contains(prev) && gaps.len() < MAX_GAPS {
                gaps.insert(prev);
                nodes.push(Symbol::Gap(prev));
            }
            if (ids.contains(prev) || gaps.contains(prev)) && !prevs.contains(&prev) {
                prevs.push(prev);
            }
        }
        edges.insert(&event.event_id, prevs);
    }
    (nodes, edges)
}

/// Sorts the nodes so that each is above those that it references. If several may be next, the one
/// with the greatest depth is, then the one that arrived last.
fn in_order<'p>(nodes: &[Symbol<'p>], edges: &Edges<'p>) -> Vec<Symbol<'p>> {
    let mut above: BTreeMap<&str, usize> = nodes.iter().map(|it| (it.id(), 0)).collect();
    let mut gap_depths: BTreeMap<&str, i64> = BTreeMap::new();
    for node in nodes {
        for prev in edges.get(node.id()).into_iter().flatten() {
            above.entry(prev).and_modify(|it| *it += 1);
            if let Symbol::Event(event) = node {
                let depth = gap_depths.entry(prev).or_insert(i64::MAX);
                *depth = (*depth).min(event.depth.saturating_sub(1));
            }
        }
    }
    let rank = |node: &Symbol<'p>| match node {
        Symbol::Event(event) => (event.depth, event.arrival, &*event.event_id),
        // Directly below the lowest event that references it.
        Symbol::Gap(id) => (gap_depths.get(id).copied().unwrap_or_default(), i64::MAX, *id),
    };
    let by_id: BTreeMap<&str, Symbol<'p>> = nodes.iter().map(|it| (it.id(), *it)).collect();
    let is_free = |it: &&Symbol<'p>| above.get(it.id()) == Some(&0);
    let mut ready: BinaryHeap<_> = nodes.iter().filter(is_free).map(rank).collect();
    let mut waiting: BTreeSet<_> = nodes.iter().map(rank).collect();
    let mut order = Vec::with_capacity(nodes.len());
    // In the first room versions senders choose ids, so events may reference each other in a circle.
    // Then one of them is put first.
    while let Some(next) = ready.pop().or_else(|| waiting.last().copied()) {
        if !waiting.remove(&next) {
            continue;
        }
        let (_, _, id) = next;
        order.extend(by_id.get(id));
        for prev in edges.get(id).into_iter().flatten() {
            let left = above.entry(prev).or_insert(1);
            *left = left.saturating_sub(1);
            if let (0, Some(prev)) = (*left, by_id.get(prev)) {
                ready.push(rank(prev));
            }
        }
    }
    order
}

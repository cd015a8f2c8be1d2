//! States: the facts about a state, and the nodes of its map that no older state has.

use super::optional_state;
use crate::{
    state::map::{MapKey, Membership, Node, Ptr, Value},
    store::{
        StateNum,
        codec::{Decoder, Encoder, Malformed},
    },
    visibility::HistoryVisibility,
};

/// The most nodes of a record that are all decoded when one of them is asked for: more than the paths
/// to the entries that an event changes, far fewer than a whole state of a large room has.
const FEW_NODES: u32 = 32;

/// The facts about a state that serving needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateFacts {
    /// The state that this one was made from: for the state after an event, the state before it.
    /// `None` if there is none, or it is not known.
    pub before: Option<StateNum>,
    /// The history visibility of the room.
    pub history_visibility: HistoryVisibility,
    /// The number of state events.
    pub events: u32,
}

/// Encodes the facts about a state, and the nodes of its map that no older state has.
pub(in crate::store) fn encode_state(facts: StateFacts, nodes: &[Node]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.number(facts.before.map_or(0, |it| u64::from(it.0) + 1));
    out.byte(match facts.history_visibility {
        HistoryVisibility::WorldReadable => 0,
        HistoryVisibility::Shared => 1,
        HistoryVisibility::Invited => 2,
        HistoryVisibility::Joined => 3,
    });
    out.number(facts.events.into());
    let nodes: Vec<Vec<u8>> = nodes.iter().map(encode_node).collect();
    out.length(nodes.len());
    // The end of each node, so that one can be decoded without the others.
    let mut end = 0u32;
    for node in &nodes {
        end += u32::try_from(node.len()).expect("a node of a state has less than 4 GiB");
        out.raw(&end.to_be_bytes());
    }
    nodes.iter().for_each(|node| out.raw(node));
    out.finish()
}

pub(in crate::store) fn decode_state_facts(bytes: &[u8]) -> Result<StateFacts, Malformed> {
    read_state_facts(&mut Decoder(bytes))
}

fn read_state_facts(from: &mut Decoder<'_>) -> Result<StateFacts, Malformed> {
    Ok(StateFacts {
        before: optional_state(from)?,
        history_visibility: match from.byte()? {
            0 => HistoryVisibility::WorldReadable,
            1 => HistoryVisibility::Shared,
            2 => HistoryVisibility::Invited,
            3 => HistoryVisibility::Joined,
            _ => return Err(Malformed),
        },
        events: from.small()?,
    })
}

pub(in crate::store) fn decode_state_node(bytes: &[u8], slot: u32) -> Result<Node, Malformed> {
    let mut from = Decoder(bytes);
    read_state_facts(&mut from)?;
    let count = from.length()?;
    let ends = from.raw(count.checked_mul(4).ok_or(Malformed)?)?;
    let slot = usize::try_from(slot).map_err(|_| Malformed)?;
    let end_of = |slot: usize| {
        let bytes = ends.chunks_exact(4).nth(slot)?.first_chunk::<4>()?;
        usize::try_from(u32::from_be_bytes(*bytes)).ok()
    };
    let end = end_of(slot).ok_or(Malformed)?;
    let start = match slot.checked_sub(1) {
        Some(last) => end_of(last).ok_or(Malformed)?,
        None => 0,
    };
    decode_node(from.0.get(start..end).ok_or(Malformed)?)
}

/// The facts about a state, and nodes that its record holds, with their slots: all of them if there
/// are few, otherwise the node at `slot` only.
pub(in crate::store) fn decode_state_around(
    bytes: &[u8],
    slot: u32,
) -> Result<(StateFacts, Vec<(u32, Node)>), Malformed> {
    let mut from = Decoder(bytes);
    let facts = read_state_facts(&mut from)?;
    let count = u32::try_from(from.length()?).map_err(|_| Malformed)?;
    let slots = if count <= FEW_NODES { 0..count } else { slot..slot.saturating_add(1) };
    let nodes =
        slots.map(|it| Ok((it, decode_state_node(bytes, it)?))).collect::<Result<_, _>>()?;
    Ok((facts, nodes))
}

pub(in crate::store) fn decode_state_nodes(bytes: &[u8]) -> Result<Vec<Node>, Malformed> {
    let mut from = Decoder(bytes);
    read_state_facts(&mut from)?;
    let count = u32::try_from(from.length()?).map_err(|_| Malformed)?;
    (0..count).map(|slot| decode_state_node(bytes, slot)).collect()
}

fn encode_node(node: &Node) -> Vec<u8> {
    let mut out = Encoder::default();
    match node {
        Node::Leaf(entries) => {
            out.byte(0);
            out.length(entries.len());
            for (key, value) in entries {
                out.raw(&key.0);
                match value {
                    Value::Event { event, membership } => {
                        out.byte(match membership {
                            Membership::NotAMember => 0,
                            Membership::Joined => 1,
                            Membership::Invited => 2,
                            Membership::Outside => 3,
                        });
                        out.number((*event).into());
                    }
                    Value::Server { joined, invited } => {
                        out.byte(4);
                        out.number((*joined).into());
                        out.number((*invited).into());
                    }
                }
            }
        }
        Node::Inner { count, children } => {
            out.byte(1);
            out.number((*count).into());
            out.length(children.len());
            for (branch, ptr) in children {
                out.byte(*branch);
                out.number(ptr.record.into());
                out.number(ptr.slot.into());
            }
        }
    }
    out.finish()
}

fn decode_node(bytes: &[u8]) -> Result<Node, Malformed> {
    let mut from = Decoder(bytes);
    let node = match from.byte()? {
        0 => {
            let count = from.length()?;
            let mut entries = Vec::with_capacity(count);
            for _ in 0..count {
                let key = MapKey(*from.raw(16)?.first_chunk().ok_or(Malformed)?);
                let member = |membership, from: &mut Decoder<'_>| {
                    Ok(Value::Event { event: from.small()?, membership })
                };
                let value = match from.byte()? {
                    0 => member(Membership::NotAMember, &mut from)?,
                    1 => member(Membership::Joined, &mut from)?,
                    2 => member(Membership::Invited, &mut from)?,
                    3 => member(Membership::Outside, &mut from)?,
                    4 => Value::Server { joined: from.small()?, invited: from.small()? },
                    _ => return Err(Malformed),
                };
                entries.push((key, value));
            }
            Node::Leaf(entries)
        }
        1 => {
            let count = from.small()?;
            let branches = from.length()?;
            let mut children = Vec::with_capacity(branches);
            for _ in 0..branches {
                let branch = from.byte()?;
                children.push((branch, Ptr { record: from.small()?, slot: from.small()? }));
            }
            Node::Inner { count, children }
        }
        _ => return Err(Malformed),
    };
    from.end()?;
    Ok(node)
}

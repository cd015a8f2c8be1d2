//! Blocks: the bodies of a page of events in one value, compressed together. Neighbours repeat each
//! other (who sent it, what authorises it, the id of the event before), so a block is about a third
//! of its JSON where a body alone is two thirds.
//!
//! Bounded: what is long stays alone, so that reading one event never unpacks more than
//! [`MAX_PLAIN`] bytes.

use bytes::Bytes;

use super::{
    Body, EventNum,
    codec::{Malformed, Reader, Writer},
    keys::PAGE_EVENTS,
    packing::Packing,
};

/// The longest body, its event id included, that shares a block.
pub(super) const MAX_MEMBER: usize = 8 << 10;
/// A block of such bodies, with their slots and lengths.
const MAX_PLAIN: usize = (MAX_MEMBER + 8) * PAGE_SLOTS;
const PAGE_SLOTS: usize = 32;

const PLAIN: u8 = 0;
const COMPRESSED: u8 = 1;

thread_local! {
    /// The neighbours do what the dictionary of [bodies that are alone](super::body) does for those.
    static PACKING: Packing = const { Packing::new(&[]) };
}

/// The bodies of a page, by their slots in it, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Block(Vec<(u8, Body)>);

impl Block {
    /// Whether a body may share a block.
    pub(super) fn fits(body: &Body) -> bool {
        body.event_id.len().saturating_add(body.pdu.len()) <= MAX_MEMBER
    }

    pub(super) fn get(&self, event: EventNum) -> Option<&Body> {
        let at = self.place(event).ok()?;
        self.0.get(at).map(|(_, body)| body)
    }

    /// Puts a body that [fits](Self::fits) in its place.
    pub(super) fn put(&mut self, event: EventNum, body: Body) {
        match self.place(event) {
            Ok(at) => {
                if let Some((_, held)) = self.0.get_mut(at) {
                    *held = body;
                }
            }
            Err(at) => self.0.insert(at, (slot(event), body)),
        }
    }

    /// Takes a body out; says whether it was there.
    pub(super) fn remove(&mut self, event: EventNum) -> bool {
        let at = self.place(event);
        at.map(|at| self.0.remove(at)).is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The events of a page whose bodies are here.
    pub(super) fn events(&self, page: u32) -> impl Iterator<Item = EventNum> {
        let first = page.saturating_mul(PAGE_EVENTS);
        self.0.iter().map(move |(slot, _)| EventNum(first.saturating_add(u32::from(*slot))))
    }

    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        let each =
            |(_, body): &(u8, Body)| size_of::<Body>() + 2 * body.event_id.len() + body.pdu.len();
        self.0.iter().map(each).sum()
    }

    fn place(&self, event: EventNum) -> Result<usize, usize> {
        self.0.binary_search_by_key(&slot(event), |(slot, _)| *slot)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut plain = Writer::default();
        for (slot, body) in &self.0 {
            plain.byte(*slot);
            plain.text(&body.event_id);
            plain.length(body.pdu.len());
            plain.raw(&body.pdu);
        }
        let plain = plain.finish();
        let compressed = PACKING.with(|it| it.compress(&plain));
        let mut out = Writer::default();
        out.byte(if compressed.is_some() { COMPRESSED } else { PLAIN });
        out.length(plain.len());
        out.raw(compressed.as_deref().unwrap_or(&plain));
        out.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader(bytes);
        let kind = from.byte()?;
        let length = usize::try_from(from.number()?).map_err(|_| Malformed)?;
        if length > MAX_PLAIN {
            return Err(Malformed);
        }
        let plain: Bytes = match kind {
            PLAIN => from.0.to_vec(),
            COMPRESSED => PACKING.with(|it| it.decompress(from.0, length)).ok_or(Malformed)?,
            _ => return Err(Malformed),
        }
        .into();
        if plain.len() != length {
            return Err(Malformed);
        }
        let mut from = Reader(&plain);
        let mut bodies: Vec<(u8, Body)> = Vec::with_capacity(PAGE_SLOTS);
        while !from.0.is_empty() {
            let slot = from.byte()?;
            if u32::from(slot) >= PAGE_EVENTS || bodies.last().is_some_and(|it| it.0 >= slot) {
                return Err(Malformed);
            }
            let event_id = from.text()?.to_owned();
            let length = from.length()?;
            // Shares the block's memory.
            let pdu = plain.slice_ref(from.raw(length)?);
            bodies.push((slot, Body { event_id, pdu }));
        }
        Ok(Self(bodies))
    }
}

fn slot(event: EventNum) -> u8 {
    u8::try_from(event.0 % PAGE_EVENTS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body() -> impl Strategy<Value = Body> {
        ("\\$[a-z]{0,50}", prop::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(event_id, pdu)| Body { event_id, pdu: pdu.into() })
    }

    proptest! {
        #[test]
        fn blocks_come_back(bodies in prop::collection::btree_map(0u32..32, body(), 0..33)) {
            let mut block = Block::default();
            for (slot, body) in bodies.iter().rev() {
                block.put(EventNum(64 + slot), body.clone());
            }
            let mut block = Block::decode(&block.encode()).unwrap();
            for slot in 0..32 {
                prop_assert_eq!(block.get(EventNum(64 + slot)), bodies.get(&slot));
            }
            let events: Vec<u32> = block.events(2).map(|it| it.0 - 64).collect();
            prop_assert_eq!(events, bodies.keys().copied().collect::<Vec<_>>());
            for slot in 0..32 {
                prop_assert_eq!(block.remove(EventNum(slot)), bodies.contains_key(&slot));
            }
            prop_assert!(block.is_empty());
        }

        #[test]
        fn any_bytes_are_read_without_harm(mut bytes: Vec<u8>) {
            drop(Block::decode(&bytes));
            bytes.insert(0, COMPRESSED);
            drop(Block::decode(&bytes));
        }
    }

    /// The longest block there can be is one that can be read.
    #[test]
    fn the_longest_bodies_come_back() {
        let mut block = Block::default();
        for slot in 0..PAGE_EVENTS {
            let body = Body { event_id: "$x".into(), pdu: vec![b'x'; MAX_MEMBER - 2].into() };
            assert!(Block::fits(&body));
            block.put(EventNum(slot), body);
        }
        assert_eq!(Block::decode(&block.encode()), Ok(block));
    }

    /// Written by the first build of format 3; must be readable for ever.
    #[test]
    fn golden_block() {
        let plain = b"\x00\x0c\x01\x02$a\x02{}\x1f\x02$b\x00";
        let mut block = Block::default();
        block.put(EventNum(1), Body { event_id: "$a".into(), pdu: Bytes::from_static(b"{}") });
        block.put(EventNum(31), Body { event_id: "$b".into(), pdu: Bytes::new() });
        assert_eq!(block.encode(), plain);
        assert_eq!(Block::decode(plain), Ok(block.clone()));
        // The same, as zstd may write it: one raw block in a frame.
        let mut frame = b"\x01\x0c\x28\xb5\x2f\xfd\x20\x0c\x61\x00\x00".to_vec();
        frame.extend(&plain[2..]);
        assert_eq!(Block::decode(&frame), Ok(block));
        // A slot that is no slot, and one that comes twice.
        assert_eq!(Block::decode(b"\x00\x05\x20\x02$a\x00"), Err(Malformed));
        assert_eq!(Block::decode(b"\x00\x0a\x01\x02$a\x00\x01\x02$a\x00"), Err(Malformed));
    }
}

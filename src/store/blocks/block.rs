//! A block: the bodies of a page of events in one value, compressed together. Neighbouring events
//! have much text in common (sender, authorising events, the id of the event before), so a block
//! takes about a third of its JSON; single bodies take two thirds.
//!
//! Long bodies are left out, so that reading one event never decompresses more than [`MAX_PLAIN`]
//! bytes.

use bytes::Bytes;

use crate::store::{
    Body, EventNum,
    codec::{Decoder, Encoder, Malformed},
    compression::Compression,
    keys::PAGE_EVENTS,
};

/// The longest body, its event id included, that a block takes.
pub(in crate::store) const MAX_MEMBER: usize = 8 << 10;
/// The longest block, uncompressed: the longest bodies with their slots and lengths.
const MAX_PLAIN: usize = (MAX_MEMBER + 8) * PAGE_SLOTS;
const PAGE_SLOTS: usize = 32;

const PLAIN: u8 = 0;
const COMPRESSED: u8 = 1;

thread_local! {
    /// Without a dictionary: the neighbours in a block have the same effect.
    static COMPRESSION: Compression = const { Compression::new(&[]) };
}

/// The bodies of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Block(Vec<Slot>);

/// A body and its index in the page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    index: u8,
    body: Body,
}

impl Block {
    /// Whether a body is short enough for a block.
    pub(in crate::store) fn fits(body: &Body) -> bool {
        body.event_id.len().saturating_add(body.pdu.len()) <= MAX_MEMBER
    }

    /// The body of an event of the page; `None` if it is not in the block.
    pub(in crate::store) fn get(&self, event: EventNum) -> Option<&Body> {
        let at = self.find(event).ok()?;
        self.0.get(at).map(|it| &it.body)
    }

    /// Adds or replaces the body of an event. The body must [fit](Self::fits).
    pub(in crate::store) fn put(&mut self, event: EventNum, body: Body) {
        let index = index_of(event);
        match self.find(event) {
            Ok(at) => {
                if let Some(held) = self.0.get_mut(at) {
                    held.body = body;
                }
            }
            Err(at) => self.0.insert(at, Slot { index, body }),
        }
    }

    /// Removes the body of an event; returns whether it was in the block.
    pub(in crate::store) fn remove(&mut self, event: EventNum) -> bool {
        let at = self.find(event);
        at.map(|at| self.0.remove(at)).is_ok()
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The events whose bodies are in the block, if it is the block of `page`.
    pub(in crate::store) fn events(&self, page: u32) -> impl Iterator<Item = EventNum> {
        let first = page.saturating_mul(PAGE_EVENTS);
        self.0.iter().map(move |it| EventNum(first.saturating_add(u32::from(it.index))))
    }

    /// The memory that the block takes, roughly, in bytes.
    pub(in crate::store) fn memory_bytes(&self) -> usize {
        let each = |it: &Slot| size_of::<Body>() + 2 * it.body.event_id.len() + it.body.pdu.len();
        self.0.iter().map(each).sum()
    }

    /// The position of an event's body, or the position at which it would be inserted.
    fn find(&self, event: EventNum) -> Result<usize, usize> {
        self.0.binary_search_by_key(&index_of(event), |it| it.index)
    }

    /// The value on disk, without its checksum.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let mut plain = Encoder::default();
        for Slot { index, body } in &self.0 {
            plain.byte(*index);
            plain.text(&body.event_id);
            plain.length(body.pdu.len());
            plain.raw(&body.pdu);
        }
        let plain = plain.finish();
        let compressed = COMPRESSION.with(|it| it.compress(&plain));
        let mut out = Encoder::default();
        out.byte(if compressed.is_some() { COMPRESSED } else { PLAIN });
        out.length(plain.len());
        out.raw(compressed.as_deref().unwrap_or(&plain));
        out.finish()
    }

    /// Reads a value as [`encode`](Self::encode) writes it.
    pub(in crate::store) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder(bytes);
        let kind = from.byte()?;
        let length = usize::try_from(from.number()?).map_err(|_| Malformed)?;
        if length > MAX_PLAIN {
            return Err(Malformed);
        }
        let plain: Bytes = match kind {
            PLAIN => from.0.to_vec(),
            COMPRESSED => COMPRESSION.with(|it| it.decompress(from.0, length)).ok_or(Malformed)?,
            _ => return Err(Malformed),
        }
        .into();
        if plain.len() != length {
            return Err(Malformed);
        }
        let mut from = Decoder(&plain);
        let mut slots: Vec<Slot> = Vec::with_capacity(PAGE_SLOTS);
        while !from.0.is_empty() {
            let index = from.byte()?;
            if u32::from(index) >= PAGE_EVENTS || slots.last().is_some_and(|it| it.index >= index) {
                return Err(Malformed);
            }
            let event_id = from.text()?.to_owned();
            let length = from.length()?;
            // Shares the memory of the block.
            let pdu = plain.slice_ref(from.raw(length)?);
            slots.push(Slot { index, body: Body { event_id, pdu } });
        }
        Ok(Self(slots))
    }
}

/// The index of an event in its page.
fn index_of(event: EventNum) -> u8 {
    u8::try_from(event.0 % PAGE_EVENTS).expect("a page has at most 32 events")
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

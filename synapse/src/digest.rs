//! Digests of rooms: what the history service returns as `GetRoomDigest`, computed here too.
//! `database/digest.rs` computes the same in SQL.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::proto::v1::{DigestPart, Verdict};

/// The most leading bits of a hash that select a part.
pub(crate) const MAX_PREFIX_BITS: u32 = 12;
/// The number of events that a part should have.
const EVENTS_PER_PART: u64 = 64;
/// The first bytes of the hash of an event id that a digest covers.
const ID_HASH_BYTES: usize = 16;

/// What a digest covers of an event, beside its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HeldAs {
    /// What the homeserver decided. Never unspecified.
    pub(crate) verdict: Verdict,
    /// Whether the event is an outlier.
    pub(crate) outlier: bool,
}

impl HeldAs {
    /// The byte of the digest: the sum of 1 for an outlier, 2 for a rejected event and 4 for a
    /// soft-failed one.
    #[must_use]
    pub(crate) fn flags(self) -> u8 {
        let verdict = match self.verdict {
            Verdict::Unspecified | Verdict::Accepted => 0,
            Verdict::Rejected => 2,
            Verdict::SoftFailed => 4,
        };
        verdict | u8::from(self.outlier)
    }

    /// Reads the byte of the digest. Rejected wins over soft-failed.
    #[must_use]
    pub(crate) fn of_flags(flags: u8) -> Self {
        let verdict = match flags {
            _ if flags & 2 != 0 => Verdict::Rejected,
            _ if flags & 4 != 0 => Verdict::SoftFailed,
            _ => Verdict::Accepted,
        };
        Self { verdict, outlier: flags & 1 != 0 }
    }
}

/// The number of leading bits that splits a room of this size into parts that can be listed.
#[must_use]
pub(crate) fn prefix_bits(events: u64) -> u32 {
    let parts = events.div_ceil(EVENTS_PER_PART).max(1);
    parts.ilog2().min(MAX_PREFIX_BITS)
}

/// Parts of a room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoomParts<'a> {
    /// The room.
    pub(crate) room_id: &'a str,
    /// The number of leading bits of the hash of an event id that select its part.
    pub(crate) prefix_bits: u32,
}

/// The digests of the parts of a room, by ascending prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts(pub(crate) Vec<DigestPart>);

impl Parts {
    /// The parts of a room without events.
    #[must_use]
    pub(crate) fn empty(prefix_bits: u32) -> Self {
        let parts = usize::try_from(1_u32 << prefix_bits).expect("usize has at least 32 bits");
        Self(vec![DigestPart::default(); parts])
    }

    /// Adds an event, or removes one that was added: both change the digest in the same way.
    fn turn(&mut self, event_id: &str, held: HeldAs, is_added: bool) {
        let id_hash = Sha256::digest(event_id.as_bytes());
        let bits = self.0.len().ilog2();
        let part = self.0.get_mut(prefix_of(&id_hash, bits)).expect("a prefix has these bits");
        part.digest ^= event_digest(&id_hash, held);
        part.event_count = match is_added {
            true => part.event_count.saturating_add(1),
            false => part.event_count.saturating_sub(1),
        };
    }

    #[cfg(test)]
    /// Adds an event.
    pub(crate) fn add(&mut self, event_id: &str, held: HeldAs) {
        self.turn(event_id, held, true);
    }

    /// Removes an event that is part of the digest with these flags.
    pub(crate) fn remove(&mut self, event_id: &str, held: HeldAs) {
        self.turn(event_id, held, false);
    }

    /// The number of events of all parts.
    #[must_use]
    pub(crate) fn events(&self) -> u64 {
        self.0.iter().map(|it| it.event_count).sum()
    }

    /// The prefixes at which two digests differ, with the number of events on the larger side.
    #[must_use]
    pub(crate) fn differing(&self, other: &Self) -> BTreeMap<u32, u64> {
        let pairs = (0_u32..).zip(self.0.iter().zip(&other.0));
        let differ = pairs.filter(|(_, (ours, theirs))| ours != theirs);
        differ.map(|(at, (a, b))| (at, a.event_count.max(b.event_count))).collect()
    }
}

/// The first bits of a hash, as a number.
fn prefix_of(hash: &[u8], bits: u32) -> usize {
    let first = hash.first_chunk().map_or(0, |it| u16::from_be_bytes(*it));
    usize::from(first) >> (u16::BITS - bits)
}

/// The digest of one event: the first 8 bytes of SHA-256(h || f), as the contract defines it.
fn event_digest(id_hash: &[u8], held: HeldAs) -> u64 {
    let mut hash = Sha256::new();
    hash.update(id_hash.get(..ID_HASH_BYTES).unwrap_or_default());
    hash.update([held.flags()]);
    hash.finalize().first_chunk().map_or(0, |it| u64::from_be_bytes(*it))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_held() -> impl Strategy<Value = HeldAs> {
        (0_u8..6).prop_map(HeldAs::of_flags)
    }

    proptest! {
        #[test]
        fn a_digest_does_not_depend_on_the_order_of_events(
            mut events in prop::collection::vec(("\\$[a-z]{1,8}", any_held()), 0..50),
            bits in 0..=MAX_PREFIX_BITS,
        ) {
            let mut one = Parts::empty(bits);
            events.iter().for_each(|(id, held)| one.add(id, *held));
            events.reverse();
            let mut other = Parts::empty(bits);
            events.iter().for_each(|(id, held)| other.add(id, *held));
            prop_assert_eq!(&one, &other);
            prop_assert_eq!(one.events(), u64::try_from(events.len()).unwrap());
            events.iter().for_each(|(id, held)| other.remove(id, *held));
            prop_assert_eq!(other, Parts::empty(bits));
        }

        #[test]
        fn other_flags_are_another_digest(a in any_held(), b in any_held()) {
            let (mut one, mut other) = (Parts::empty(0), Parts::empty(0));
            one.add("$event", a);
            other.add("$event", b);
            prop_assert_eq!(one == other, a == b);
            prop_assert_eq!(HeldAs::of_flags(a.flags()), a);
        }
    }

    /// The value was computed with another program: `sha256sum`, as the contract says.
    #[test]
    fn the_digest_of_a_known_event() {
        let mut parts = Parts::empty(4);
        parts.add("$a", HeldAs { verdict: Verdict::SoftFailed, outlier: true });
        let (prefix, part) =
            parts.0.iter().enumerate().find(|(_, it)| it.event_count == 1).unwrap();
        assert_eq!((prefix, part.digest), (KNOWN_PREFIX, KNOWN_DIGEST));
    }

    const KNOWN_PREFIX: usize = 7;
    const KNOWN_DIGEST: u64 = 0x1e30_0e4b_1f08_0be6;

    #[test]
    fn a_large_room_has_more_parts() {
        assert_eq!(prefix_bits(0), 0);
        assert_eq!(prefix_bits(64), 0);
        assert_eq!(prefix_bits(128), 1);
        assert_eq!(prefix_bits(u64::MAX / 2), MAX_PREFIX_BITS);
    }
}

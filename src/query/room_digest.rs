//! Digests of the ids and flags of all events of a room. For feeders, which compare them with those
//! of the homeserver.
//!
//! An event that is appended, changed or removed meanwhile may count as it was, or as it is.

use sha2::{Digest as _, Sha256};

use super::{QueryError, Question, admission::find_internal};
use crate::{
    context::Context,
    deadline::Deadline,
    ingest::Verdict,
    store::{Flags, HeldId, RoomFlags},
};

/// The most bits by which a room is divided into parts.
pub(super) const MAX_PREFIX_BITS: u32 = 12;
/// The ids, and the pages of flags, that are read at once.
const IDS_AT_ONCE: usize = 4_096;
const PAGES_AT_ONCE: usize = 128;

/// The digest of the events of one part of a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartDigest {
    /// The number of events.
    pub events: u64,
    /// The exclusive or of the digests of the ids and flags of the events.
    pub digest: u64,
}

/// Asks for the digests of all parts of a room, by ascending prefix.
#[derive(Clone, Debug)]
pub struct GetRoomDigest {
    /// The id of the room.
    pub room_id: String,
    /// The number of leading bits of the SHA-256 of an event id that select its part: at most 12.
    pub prefix_bits: u32,
}

impl Question for GetRoomDigest {
    type Answer = Vec<PartDigest>;

    fn room_id(&self) -> Option<&str> {
        Some(&self.room_id)
    }

    fn try_answer(&self, cx: &Context, deadline: &Deadline) -> Result<Vec<PartDigest>, QueryError> {
        let room = find_internal(&cx.store, &self.room_id)?.number;
        if self.prefix_bits > MAX_PREFIX_BITS {
            return Err(QueryError::PrefixInvalid);
        }
        let mut flags = RoomFlags::default();
        while cx.store.read_flags(room, &mut flags, PAGES_AT_ONCE)? {
            deadline.check()?;
        }
        let mut parts = vec![PartDigest::default(); 1 << self.prefix_bits];
        let mut after = None;
        loop {
            deadline.check()?;
            let held = cx.store.held_ids(room, after, IDS_AT_ONCE)?;
            for HeldId { hash, event } in held.ids {
                let Some(flags) = flags.get(event) else { continue };
                let part = parts.get_mut(part_of(hash, self.prefix_bits));
                let part = part.expect("there are as many parts as prefixes");
                part.events += 1;
                part.digest ^= event_digest(hash, flags);
            }
            after = held.next;
            if after.is_none() {
                return Ok(parts);
            }
        }
    }
}

/// The index of the part to which an id belongs.
fn part_of(hash: [u8; 16], prefix_bits: u32) -> usize {
    let prefix = u128::from_be_bytes(hash).checked_shr(128 - prefix_bits).unwrap_or(0);
    usize::try_from(prefix).expect("it has at most 12 bits")
}

/// The digest of an event: of its id, whether it is an outlier, and the verdict.
fn event_digest(hash: [u8; 16], flags: Flags) -> u64 {
    let verdict = match Verdict::of_flags(flags.rejected, flags.soft_failed) {
        Verdict::Accepted => 0,
        Verdict::Rejected => 2,
        Verdict::SoftFailed => 4,
    };
    let digest = Sha256::new().chain_update(hash).chain_update([u8::from(flags.outlier) + verdict]);
    let digest: [u8; 32] = digest.finalize().into();
    u64::from_be_bytes(*digest.first_chunk().expect("32 bytes begin with 8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leading_bits_of_the_hash_select_the_part() {
        let mut hash = [0; 16];
        hash[0] = 0xab;
        hash[1] = 0xcd;
        for (bits, part) in [(0, 0), (1, 1), (4, 0xa), (8, 0xab), (12, 0xabc)] {
            assert_eq!(part_of(hash, bits), part, "{bits}");
        }
    }

    /// Feeders compute the same number from their database; the values come from another program.
    #[test]
    fn the_digest_of_an_event_never_changes() {
        let hash = |id: &str| -> [u8; 16] {
            let whole: [u8; 32] = Sha256::digest(id.as_bytes()).into();
            *whole.first_chunk().unwrap()
        };
        let flags = |outlier, rejected, soft_failed| Flags {
            outlier,
            rejected,
            soft_failed,
            ..Flags::default()
        };
        for (flags, expected) in [
            (flags(false, false, false), 0x5330_3100_0619_2624),
            (flags(true, false, false), 0x2a97_4b84_3df0_37d7),
            (flags(false, true, false), 0x1d99_20f8_13aa_936d),
            (flags(false, false, true), 0x339f_6024_f184_aa8b),
            (flags(true, true, true), 0x04a7_3c76_55a5_0c83),
        ] {
            assert_eq!(event_digest(hash("$a"), flags), expected, "{flags:?}");
        }
    }
}

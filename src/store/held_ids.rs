//! The ids of all events of a room, by their hashes, with the flags of the events. For digests of
//! whole rooms: both are read in the order in which they are on disk.

use super::{
    EventNum, Flags, PAGE_EVENTS, RoomNum, Store, StoreError, View,
    codec::{Malformed, strip_checksum},
    keys,
    record::{NO_NODE, Page},
    view::number_or_gone,
};
use crate::num;

/// An event that is held, by the hash of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldId {
    /// The first 16 bytes of the SHA-256 of its id.
    pub hash: [u8; 16],
    /// Its number.
    pub event: EventNum,
}

/// A page of events that are held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldIds {
    /// The events, in the order of the hashes.
    pub ids: Vec<HeldId>,
    /// The hash after which the next page starts; `None` if this page is the last.
    pub next: Option<[u8; 16]>,
}

/// The flags of the events of a room: a byte for each number.
#[derive(Clone, Debug, Default)]
pub struct RoomFlags {
    bits: Vec<u8>,
    /// The page that was read last; `None` at the start.
    last_page: Option<u32>,
}

impl RoomFlags {
    /// The flags of an event; `None` if it is not held, or was not read.
    #[must_use]
    pub fn get(&self, event: EventNum) -> Option<Flags> {
        let bits = self.bits.get(num::usize(event.0)).filter(|it| **it != NO_NODE)?;
        Some(Flags::of_bits(*bits))
    }
}

impl Store {
    /// The events of a room that are held, those with hashes greater than `after`. Looks at
    /// `looked_at` ids at most, held or purged.
    ///
    /// # Errors
    /// When a record is damaged.
    pub fn held_ids(
        &self,
        room: RoomNum,
        after: Option<[u8; 16]>,
        looked_at: usize,
    ) -> Result<HeldIds, StoreError> {
        let after = after.map(|it| keys::event_by_hash(room, it));
        let records = self.scan(&keys::events(room), after.as_deref(), looked_at)?;
        let mut found = HeldIds::default();
        for (key, value) in &records {
            let damaged = || StoreError::corrupt("event number", key);
            let hash = keys::hash_of(key).ok_or_else(damaged)?;
            let number = strip_checksum(key, value).and_then(number_or_gone);
            if let Some(event) = number.map_err(|_| damaged())?.map(EventNum) {
                found.ids.push(HeldId { hash, event });
            }
            found.next = Some(hash);
        }
        if records.len() < looked_at {
            found.next = None;
        }
        Ok(found)
    }

    /// Reads the flags of some more events of a room: those of `pages` pages. Returns false when
    /// all were read.
    ///
    /// # Errors
    /// When a record is damaged.
    pub fn read_flags(
        &self,
        room: RoomNum,
        flags: &mut RoomFlags,
        pages: usize,
    ) -> Result<bool, StoreError> {
        let after = flags.last_page.map(|it| keys::page(room, it));
        let records = self.scan(&keys::pages(room), after.as_deref(), pages)?;
        for (key, value) in &records {
            let damaged = |_: Malformed| StoreError::corrupt("page", key);
            let page = keys::last_number(key).ok_or_else(|| damaged(Malformed))?;
            let first = page.checked_mul(PAGE_EVENTS).ok_or_else(|| damaged(Malformed))?;
            let bytes = strip_checksum(key, value).map_err(damaged)?;
            flags.bits.resize(num::usize(first), NO_NODE);
            flags.bits.extend(Page::decode(page, bytes).map_err(damaged)?.bits());
            flags.last_page = Some(page);
        }
        Ok(records.len() == pages)
    }
}

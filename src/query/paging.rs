//! The size of an answer, and lists that are read page by page.
//!
//! By default gRPC clients accept messages of up to 4 MiB. The items of an answer (events, entries,
//! ids) end at half of that, as they are encoded. Everything else in an answer is bounded by numbers
//! and stays far below the other half. The largest item is an event of 64 KiB in which every byte is
//! written as `\u0000`: with 384 KiB it always fits.

use super::{QueryError, admission::FoundRoom};

/// The most bytes that the items of an answer take.
pub(super) const MAX_BYTES: usize = 2 << 20;
/// The most bytes of an item besides its texts: tags, lengths, numbers.
const ITEM_BYTES: usize = 64;

/// The part of a list that a caller asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// The most items of the page; 0 leaves the number to the service.
    pub size: u32,
    /// The token that the previous page gave; empty for the first page.
    pub token: String,
}

impl PageRequest {
    /// Asks for the first page, with at most this many items.
    #[must_use]
    pub fn first(size: u32) -> Self {
        Self { size, token: String::new() }
    }

    /// The most items of the page: as many as asked for, within the bounds of the list.
    pub(super) fn size(&self, default: u32, max: u32) -> usize {
        let size = if self.size == 0 { default } else { self.size.min(max) };
        usize::try_from(size).expect("32 bits fit every usize")
    }

    /// The position after which the page begins, as `parse` reads it from the token; `None` for
    /// the first page.
    pub(super) fn position<T>(
        &self,
        room: &FoundRoom,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, QueryError> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let (position, mark) = self.token.rsplit_once('@').ok_or(QueryError::PageTokenInvalid)?;
        let mark: u64 = mark.parse().map_err(|_| QueryError::PageTokenInvalid)?;
        if mark != room.mark {
            // The token is of a room that was deleted and created again under the same id.
            return Err(QueryError::RoomUnknown(room.record.room_id.clone()));
        }
        parse(position).map(Some).ok_or(QueryError::PageTokenInvalid)
    }
}

/// A token for the next page of a list of this room, which begins after a position.
pub(super) fn token(room: &FoundRoom, position: impl std::fmt::Display) -> String {
    format!("{position}@{}", room.mark)
}

/// A page of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdList {
    /// The ids, in the order of the list.
    pub ids: Vec<String>,
    /// The token for the next page; empty on the last page.
    pub next_page_token: String,
}

/// The space that is left in an answer.
#[derive(Debug, Default)]
pub(super) struct AnswerSpace {
    taken: usize,
}

impl AnswerSpace {
    /// Takes space for an item whose texts have this many bytes. Returns false if there is none
    /// left. The first item always gets space: otherwise a list would never end.
    pub(super) fn take(&mut self, texts: usize) -> bool {
        let taken = self.taken.saturating_add(texts).saturating_add(ITEM_BYTES);
        if self.taken > 0 && taken > MAX_BYTES {
            return false;
        }
        self.taken = taken;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_item_always_fits_and_no_other_beyond_the_bound() {
        let mut space = AnswerSpace::default();
        assert!(space.take(2 * MAX_BYTES));
        assert!(!space.take(0));
        let mut space = AnswerSpace::default();
        assert!(space.take(MAX_BYTES / 2));
        assert!(!space.take(MAX_BYTES / 2));
        assert!(space.take(MAX_BYTES / 2 - 2 * ITEM_BYTES));
        assert!(!space.take(0));
    }

    #[test]
    fn a_page_has_at_most_as_many_items_as_the_list_allows() {
        for (asked, items) in [(0, 100), (1, 1), (1_000, 1_000), (1_001, 1_000)] {
            assert_eq!(PageRequest::first(asked).size(100, 1_000), items);
        }
    }
}

//! How large an answer may be, and where a list that was cut goes on.
//!
//! gRPC clients take answers of up to 4 MiB unless they are told otherwise. So what an answer is
//! made of (events, entries, ids) ends at half of that, as it travels; what stands beside it is
//! bounded by numbers and stays far below the other half. The largest item of all, an event of
//! 64 KiB every byte of which is written as `\u0000`, has 384 KiB: it always fits.

use super::{Found, QueryError};

/// Most bytes of an answer's items.
pub(super) const MAX_BYTES: usize = 2 << 20;
/// What an item takes beside its texts, at most: tags, lengths, numbers.
const ITEM_BYTES: usize = 64;

/// The room that is left in an answer.
#[derive(Debug, Default)]
pub(super) struct Space {
    taken: usize,
}

impl Space {
    /// Takes room for an item whose texts have so many bytes, if there is any. For the first item
    /// there always is, or a list would never come to its end.
    pub(super) fn take(&mut self, texts: usize) -> bool {
        let taken = self.taken.saturating_add(texts).saturating_add(ITEM_BYTES);
        if self.taken > 0 && taken > MAX_BYTES {
            return false;
        }
        self.taken = taken;
        true
    }
}

/// Where the list of a room goes on: what a token says, without the number of the room. Nothing
/// for the first page.
pub(super) fn rest_of<'t>(
    page_token: &'t str,
    found: &Found,
) -> Result<Option<&'t str>, QueryError> {
    if page_token.is_empty() {
        return Ok(None);
    }
    let (rest, number) = page_token.rsplit_once('@').ok_or(QueryError::PageTokenInvalid)?;
    match number.parse::<u32>() {
        Ok(number) if found.number.0 == number => Ok(Some(rest)),
        // It is the list of a room that was deleted since, and has come back under this id.
        Ok(_) => Err(QueryError::RoomUnknown(found.room.room_id.clone())),
        Err(_) => Err(QueryError::PageTokenInvalid),
    }
}

/// A token for going on with the list of a room.
pub(super) fn token(found: &Found, rest: impl std::fmt::Display) -> String {
    format!("{rest}@{}", found.number.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_item_always_fits_and_no_other_beyond_the_bound() {
        let mut space = Space::default();
        assert!(space.take(2 * MAX_BYTES));
        assert!(!space.take(0));
        let mut space = Space::default();
        assert!(space.take(MAX_BYTES / 2));
        assert!(!space.take(MAX_BYTES / 2));
        assert!(space.take(MAX_BYTES / 2 - 2 * ITEM_BYTES));
        assert!(!space.take(0));
    }
}

//! The events of a room that were purged. For internal callers, who need them for backups.

use super::{
    QueryError, Question,
    admission::find_internal,
    paging::{PageRequest, token},
};
use crate::{context::Context, deadline::Deadline, store::View as _};

/// The most hashes of a page.
const MAX_PAGE: u32 = 10_000;
/// The hashes of a page when the caller does not say.
const DEFAULT_PAGE: u32 = 1_000;
/// The most ids that are looked at for one page.
const MAX_LOOKED_AT: usize = 100_000;

/// A page of purged events.
#[derive(Clone, Debug, Default)]
pub struct PurgedList {
    /// The first 16 bytes of the SHA-256 of each event id.
    pub event_id_hashes: Vec<[u8; 16]>,
    /// The token for the next page; empty on the last page.
    pub next_page_token: String,
}

/// Asks for the events of a room that were purged.
#[derive(Clone, Debug)]
pub struct ListPurgedEvents {
    /// The id of the room.
    pub room_id: String,
    /// The part of the list.
    pub page: PageRequest,
}

impl Question for ListPurgedEvents {
    type Answer = PurgedList;

    fn room_id(&self) -> Option<&str> {
        Some(&self.room_id)
    }

    fn try_answer(&self, cx: &Context, _: &Deadline) -> Result<PurgedList, QueryError> {
        let room = find_internal(&cx.store, &self.room_id)?;
        let after = self.page.position(&room, parse_hash)?;
        let size = self.page.size(DEFAULT_PAGE, MAX_PAGE);
        let page = cx.store.purged_events(room.number, after, size, MAX_LOOKED_AT)?;
        let next = |it| token(&room, format_args!("{:032x}", u128::from_be_bytes(it)));
        let next_page_token = page.next.map(next).unwrap_or_default();
        Ok(PurgedList { event_id_hashes: page.hashes, next_page_token })
    }
}

fn parse_hash(position: &str) -> Option<[u8; 16]> {
    (position.len() == 32).then(|| u128::from_str_radix(position, 16).ok())?.map(u128::to_be_bytes)
}

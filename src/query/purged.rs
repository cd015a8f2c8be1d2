//! The events of a room that were purged. For sister services, and for backups.

use super::{
    Asker, QueryError, admit,
    pages::{rest_of, token},
};
use crate::{context::Context, store::View as _};

/// Most of a page, and how many when the asker does not say.
const MAX_PAGE: u32 = 10_000;
const DEFAULT_PAGE: u32 = 1_000;
/// Ids looked at for one page.
const MAX_LOOKED_AT: usize = 100_000;

/// A page of purged events.
#[derive(Clone, Debug, Default)]
pub struct PurgedList {
    /// Half of the SHA-256 of each id.
    pub event_id_hashes: Vec<[u8; 16]>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// A page of a room's purged events.
///
/// # Errors
/// When there is no such room, when the token is not ours, or the store fails.
pub fn list_purged_events(
    cx: &Context,
    room_id: &str,
    (page_size, page_token): (u32, &str),
) -> Result<PurgedList, QueryError> {
    let found = admit(&cx.store, room_id, &Asker::Sister)?;
    let after = match rest_of(page_token, &found)? {
        None => None,
        Some(rest) => Some(parse_hash(rest).ok_or(QueryError::PageTokenInvalid)?),
    };
    let size = if page_size == 0 { DEFAULT_PAGE } else { page_size.min(MAX_PAGE) };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let page = cx.store.purged_events(found.number, after, size, MAX_LOOKED_AT)?;
    let next = |it| token(&found, format_args!("{:032x}", u128::from_be_bytes(it)));
    let next_page_token = page.next.map(next).unwrap_or_default();
    Ok(PurgedList { event_id_hashes: page.hashes, next_page_token })
}

fn parse_hash(rest: &str) -> Option<[u8; 16]> {
    (rest.len() == 32).then(|| u128::from_str_radix(rest, 16).ok())?.map(u128::to_be_bytes)
}

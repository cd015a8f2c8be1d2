//! What is to stay away from the store as a whole: rooms that were deleted, and users who asked for
//! erasure, also those of one room. For backups.

use super::{Asker, QueryError, admit, pages::Space};
use crate::{
    context::Context,
    state::map::{self, Key},
    store::View as _,
};

/// Most rooms, users or events of a page, and how many when the caller does not say.
const MAX_PAGE: u32 = 10_000;
const DEFAULT_PAGE: u32 = 1_000;

/// The size of a page of ids.
pub(super) fn id_page_size(page_size: u32) -> usize {
    let size = if page_size == 0 { DEFAULT_PAGE } else { page_size.min(MAX_PAGE) };
    usize::try_from(size).expect("at most 10,000")
}

/// A page of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdList {
    /// In their own order.
    pub ids: Vec<String>,
    /// Where to go on; empty on the last page.
    pub next_page_token: String,
}

/// Rooms that were deleted and may not return.
///
/// # Errors
/// When the store fails.
pub fn list_deleted_rooms(
    cx: &Context,
    page_size: u32,
    page_token: &str,
) -> Result<IdList, QueryError> {
    let after = (!page_token.is_empty()).then_some(page_token);
    let (ids, last) = cx.store.buried_rooms(after, id_page_size(page_size))?;
    Ok(IdList { ids, next_page_token: last.unwrap_or_default() })
}

/// Users who asked for erasure.
#[must_use]
pub fn list_erased_users(cx: &Context, page_size: u32, page_token: &str) -> IdList {
    let size = id_page_size(page_size);
    let users = cx.store.erased_users(page_token, size);
    let (looked_at, mut space) = (users.len(), Space::default());
    let ids: Vec<String> = users.into_iter().take_while(|it| space.take(it.len())).collect();
    let is_cut = ids.len() < looked_at || looked_at >= size;
    let last = ids.last().filter(|_| is_cut).cloned();
    IdList { ids, next_page_token: last.unwrap_or_default() }
}

/// Users who asked for erasure and are in the current state of a room, if that is known.
///
/// # Errors
/// When there is no such room, or the store fails.
pub fn list_erased_members(
    cx: &Context,
    room_id: &str,
    page_size: u32,
    page_token: &str,
) -> Result<IdList, QueryError> {
    let found = admit(&cx.store, room_id, &Asker::Sister)?;
    let Some(current) = found.room.current_state else { return Ok(IdList::default()) };
    let states = cx.store.states(found.number);
    let size = id_page_size(page_size);
    let users = cx.store.erased_users(page_token, size);
    let (mut list, mut space, mut last) = (IdList::default(), Space::default(), None);
    let mut is_cut = users.len() >= size;
    for user in users {
        let key = Key::of_state("m.room.member", &user);
        if map::get(&states, current.root(), key)?.is_some() {
            if !space.take(user.len()) {
                is_cut = true;
                break;
            }
            list.ids.push(user.clone());
        }
        last = Some(user);
    }
    list.next_page_token = last.filter(|_| is_cut).unwrap_or_default();
    Ok(list)
}

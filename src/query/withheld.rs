//! What is to stay away from the store as a whole: rooms that were deleted, and users who asked for
//! erasure, also those of one room. For backups.

use super::{Asker, QueryError, admit, pages::Space};
use crate::{
    context::Context,
    state::map::{self, Key},
    store::View as _,
};

/// Rooms or users looked at for one page.
const MAX_PAGE: usize = 10_000;

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
pub fn list_deleted_rooms(cx: &Context, page_token: &str) -> Result<IdList, QueryError> {
    let after = (!page_token.is_empty()).then_some(page_token);
    let page = cx.store.buried_rooms(after, MAX_PAGE)?;
    Ok(IdList { ids: page.room_ids, next_page_token: page.next.unwrap_or_default() })
}

/// Users who asked for erasure.
#[must_use]
pub fn list_erased_users(cx: &Context, page_token: &str) -> IdList {
    let users = cx.store.erased_users(page_token, MAX_PAGE);
    let (looked_at, mut space) = (users.len(), Space::default());
    let ids: Vec<String> = users.into_iter().take_while(|it| space.take(it.len())).collect();
    let is_cut = ids.len() < looked_at || looked_at >= MAX_PAGE;
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
    page_token: &str,
) -> Result<IdList, QueryError> {
    let found = admit(&cx.store, room_id, &Asker::Sister)?;
    let Some(current) = found.room.current_state else { return Ok(IdList::default()) };
    let states = cx.store.states(found.number);
    let users = cx.store.erased_users(page_token, MAX_PAGE);
    let (mut list, mut space, mut last) = (IdList::default(), Space::default(), None);
    let mut is_cut = users.len() >= MAX_PAGE;
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

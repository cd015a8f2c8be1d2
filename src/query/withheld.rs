//! What is to stay away from the store as a whole: rooms that were deleted, and users who asked for
//! erasure. For backups.

use super::QueryError;
use crate::context::Context;

/// Rooms looked at for one page, and users named in one.
const MAX_PAGE: usize = 10_000;

/// A page of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdList {
    /// In their own order.
    pub ids: Vec<String>,
    /// The last id looked at; empty on the last page.
    pub next_page_token: String,
}

/// Rooms that were deleted and may not return.
///
/// # Errors
/// When the store fails.
pub fn list_deleted_rooms(cx: &Context, page_token: &str) -> Result<IdList, QueryError> {
    let after = (!page_token.is_empty()).then_some(page_token);
    let (ids, last) = cx.store.buried_rooms(after, MAX_PAGE)?;
    Ok(IdList { ids, next_page_token: last.unwrap_or_default() })
}

/// Users who asked for erasure.
#[must_use]
pub fn list_erased_users(cx: &Context, page_token: &str) -> IdList {
    let all = cx.store.erased_users();
    let behind = all.into_iter().filter(|it| it.as_str() > page_token);
    let ids: Vec<String> = behind.take(MAX_PAGE).collect();
    let last = ids.last().filter(|_| ids.len() >= MAX_PAGE).cloned();
    IdList { ids, next_page_token: last.unwrap_or_default() }
}

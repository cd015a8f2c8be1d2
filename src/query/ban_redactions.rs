//! The bans that redact, for backups.

use super::{
    QueryError, Question,
    paging::{AnswerSpace, PageRequest},
};
use crate::{
    context::Context,
    deadline::Deadline,
    pdu::{RoomId, UserId},
    store::{BanRedaction, BannedUser},
};

/// The most bans of a page.
const MAX_PAGE: u32 = 10_000;
/// The bans of a page when the caller does not say.
const DEFAULT_PAGE: u32 = 1_000;

/// A page of the bans that redact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BanList {
    /// The bans, by room id and user id.
    pub bans: Vec<(BannedUser, BanRedaction)>,
    /// The token for the next page; empty on the last page.
    pub next_page_token: String,
}

/// Asks for the bans that redact, in the order of their rooms and users.
#[derive(Clone, Debug)]
pub struct ListBanRedactions {
    /// The part of the list.
    pub page: PageRequest,
}

impl Question for ListBanRedactions {
    type Answer = BanList;

    fn room_id(&self) -> Option<&str> {
        None
    }

    fn try_answer(&self, cx: &Context, _: &Deadline) -> Result<BanList, QueryError> {
        let token = self.page.token.as_str();
        let after = (!token.is_empty()).then(|| parse(token).ok_or(QueryError::PageTokenInvalid));
        let after = after.transpose()?;
        let size = self.page.size(DEFAULT_PAGE, MAX_PAGE);
        let found = cx.store.ban_redactions(after.as_ref(), size);
        let found_count = found.len();
        let mut space = AnswerSpace::default();
        let fits = |(user, ban): &(BannedUser, BanRedaction)| {
            space.take(user.room_id.len() + user.user_id.len() + ban.ban_event_id.len())
        };
        let bans: Vec<_> = found.into_iter().take_while(fits).collect();
        let is_cut = bans.len() < found_count || found_count >= size;
        let last = bans.last().filter(|_| is_cut).map(|(user, _)| token_after(user));
        Ok(BanList { bans, next_page_token: last.unwrap_or_default() })
    }
}

/// The token for the page after a user: the length of the room id, and both ids.
fn token_after(user: &BannedUser) -> String {
    let BannedUser { room_id, user_id } = user;
    format!("{}.{room_id}{user_id}", room_id.len())
}

fn parse(token: &str) -> Option<BannedUser> {
    let (length, ids) = token.split_once('.')?;
    let (room_id, user_id) = ids.split_at_checked(length.parse().ok()?)?;
    RoomId::parse(room_id).ok()?;
    UserId::parse(user_id).ok()?;
    Some(BannedUser { room_id: room_id.to_owned(), user_id: user_id.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        query,
        store::{Options, Store},
    };

    #[test]
    fn pages_give_each_ban_once() {
        let dir = tempfile::tempdir().unwrap();
        let cx = Context::new(Store::open(&Options::small(dir.path())).unwrap());
        let mut expected = Vec::new();
        for (room, user) in [("!a.1:b", "@x:b"), ("!a.1:b", "@y:b"), ("!b:b", "@x:b")] {
            let user = BannedUser { room_id: room.to_owned(), user_id: user.to_owned() };
            let ban = BanRedaction { ban_event_id: "$ban".to_owned(), before_arrival: Some(-1) };
            cx.store.set_ban_redaction(&user, Some(&ban)).unwrap();
            expected.push((user, ban));
        }
        let ask = |token: &str| {
            let page = PageRequest { size: 1, token: token.to_owned() };
            query::answer(&cx, &ListBanRedactions { page }, &Deadline::none())
        };
        let (mut token, mut found) = (String::new(), Vec::new());
        for _ in 0..4 {
            let page = ask(&token).unwrap();
            found.extend(page.bans);
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected);
        assert!(matches!(ask("nonsense"), Err(QueryError::PageTokenInvalid)));
        assert!(matches!(ask("99.!a:b@x:b"), Err(QueryError::PageTokenInvalid)));
    }
}

//! Keeps the small tables equal: users who requested erasure, rooms that are blocked, bans that redact.

use std::collections::BTreeSet;

use super::{Context, lock};
use crate::{
    database::small_tables::{RedactingBan, SmallTables},
    history::{HistoryError, message},
    proto::v1::{
        BanRedaction, ListBanRedactionsRequest, ListErasedUsersRequest, SetBanRedactionRequest,
        SetUserErasedRequest,
    },
};

/// The largest page of a list.
const PAGE_SIZE: u32 = 10_000;

/// What the history service knows of the small tables. Blocked rooms are with the other rooms.
#[derive(Debug)]
pub(crate) struct ToldTables {
    erased_users: BTreeSet<String>,
    redacting_bans: BTreeSet<RedactingBan>,
}

impl ToldTables {
    /// Reads what the history service knows.
    ///
    /// # Errors
    /// When the history service fails.
    pub(crate) async fn read(context: &Context) -> Result<Self, HistoryError> {
        let mut admin = context.history.admin.clone();
        let mut erased_users = BTreeSet::new();
        let mut page_token = String::new();
        loop {
            let request = ListErasedUsersRequest { page_size: PAGE_SIZE, page_token };
            let page = message(admin.list_erased_users(request).await)?;
            erased_users.extend(page.user_ids);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let mut redacting_bans = BTreeSet::new();
        loop {
            let request = ListBanRedactionsRequest { page_size: PAGE_SIZE, page_token };
            let page = message(admin.list_ban_redactions(request).await)?;
            redacting_bans.extend(page.bans.into_iter().map(RedactingBan::from));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        Ok(Self { erased_users, redacting_bans })
    }

    /// Makes the history service equal to the tables.
    ///
    /// # Errors
    /// When the history service fails.
    pub(crate) async fn equalise(
        &mut self,
        context: &Context,
        tables: SmallTables,
    ) -> Result<(), HistoryError> {
        let SmallTables { erased_users, blocked_rooms, redacting_bans, .. } = tables;
        let mut ingest = context.history.ingest.clone();
        let changed: Vec<String> =
            erased_users.symmetric_difference(&self.erased_users).cloned().collect();
        for user_id in changed {
            let erased = erased_users.contains(&user_id);
            let request = SetUserErasedRequest { user_id, erased };
            accept(message(ingest.set_user_erased(request).await))?;
        }
        // A ban that has changed is removed first, and then set.
        let removed = self.redacting_bans.difference(&redacting_bans).map(|ban| (ban, false));
        let set = redacting_bans.difference(&self.redacting_bans).map(|ban| (ban, true));
        for (ban, is_set) in removed.chain(set) {
            let RedactingBan { room_id, user_id, ban_event_id, before } = ban.clone();
            let ban_event_id = if is_set { ban_event_id } else { String::new() };
            let before_arrival = before.filter(|_| is_set);
            let request = SetBanRedactionRequest { room_id, user_id, ban_event_id, before_arrival };
            accept(message(ingest.set_ban_redaction(request).await))?;
        }
        *self = Self { erased_users, redacting_bans };
        lock(&context.rooms).set_blocked(blocked_rooms);
        Ok(())
    }
}

impl From<BanRedaction> for RedactingBan {
    fn from(ban: BanRedaction) -> Self {
        let BanRedaction { room_id, user_id, ban_event_id, before_arrival } = ban;
        Self { room_id, user_id, ban_event_id, before: before_arrival }
    }
}

/// An id that is no Matrix id has no events that could be served: it is logged once, and does not stop
/// the follower.
fn accept<T>(response: Result<T, HistoryError>) -> Result<(), HistoryError> {
    match response {
        Err(error) if error.code == tonic::Code::InvalidArgument => {
            tracing::warn!("a row of a small table was left out: {error}");
            Ok(())
        }
        response => response.map(drop),
    }
}

//! The messages about bans that redact.

use tonic::Status;

use crate::{
    pdu::{EventId, RoomId, UserId},
    proto::v1::{self as pb, ErrorReason},
    query::BanList,
    rpc::status,
    store::{BanRedaction, BannedUser},
};

/// A request of `SetBanRedaction`.
pub(in crate::rpc) struct NewBan {
    /// The banned user.
    pub(in crate::rpc) user: BannedUser,
    /// The ban; `None` removes the record.
    pub(in crate::rpc) ban: Option<BanRedaction>,
}

/// Reads a request of `SetBanRedaction`.
///
/// # Errors
/// An id is not valid.
pub(in crate::rpc) fn new_ban(request: pb::SetBanRedactionRequest) -> Result<NewBan, Status> {
    let pb::SetBanRedactionRequest { room_id, user_id, ban_event_id, before_arrival } = request;
    RoomId::parse(&room_id)
        .map_err(|fault| status::refuse(ErrorReason::RoomIdInvalid, &format!("room_id {fault}")))?;
    UserId::parse(&user_id)
        .map_err(|fault| status::refuse(ErrorReason::UserIdInvalid, &format!("user_id {fault}")))?;
    let user = BannedUser { room_id, user_id };
    if ban_event_id.is_empty() {
        return Ok(NewBan { user, ban: None });
    }
    EventId::parse(&ban_event_id).map_err(|fault| {
        status::refuse(ErrorReason::EventIdInvalid, &format!("ban_event_id {fault}"))
    })?;
    Ok(NewBan { user, ban: Some(BanRedaction { ban_event_id, before_arrival }) })
}

pub(in crate::rpc) fn list_ban_redactions_response(list: BanList) -> pb::ListBanRedactionsResponse {
    let BanList { bans, next_page_token } = list;
    let bans = bans.into_iter().map(|(user, ban)| {
        let BannedUser { room_id, user_id } = user;
        let BanRedaction { ban_event_id, before_arrival } = ban;
        pb::BanRedaction { room_id, user_id, ban_event_id, before_arrival }
    });
    pb::ListBanRedactionsResponse { bans: bans.collect(), next_page_token }
}

//! The RPCs `SetBanRedaction` and `ListBanRedactions`: their errors, and what they change.

use backscroll::proto::v1::{self as pb, admin_service_client::AdminServiceClient};
use tonic::Code::InvalidArgument;

use crate::support::failures::{
    ALICE, BOB, INVALID_TOKENS, Row, Stage, assert_failures, unknown_room,
};

fn request(room_id: &str, user_id: &str, ban_event_id: &str) -> pb::SetBanRedactionRequest {
    pb::SetBanRedactionRequest {
        room_id: room_id.to_owned(),
        user_id: user_id.to_owned(),
        ban_event_id: ban_event_id.to_owned(),
        before_arrival: None,
    }
}

/// All bans that redact, read in pages.
async fn bans(stage: &Stage, page_size: u32) -> Vec<pb::BanRedaction> {
    let mut admin = AdminServiceClient::connect(stage.service.url()).await.unwrap();
    let (mut bans, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListBanRedactionsRequest { page_size, page_token };
        let page = admin.list_ban_redactions(request).await.unwrap().into_inner();
        bans.extend(page.bans);
        if page.next_page_token.is_empty() {
            return bans;
        }
        page_token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_code_and_reason_and_change_nothing() {
    let stage = Stage::start().await;
    let (room_id, last) = (stage.room_id(), stage.last());
    let rows = [
        Row::new(request("nowhere", BOB, &last), InvalidArgument, "ROOM_ID_INVALID"),
        Row::new(request(&room_id, "bob", &last), InvalidArgument, "USER_ID_INVALID"),
        Row::new(request(&room_id, "bob", ""), InvalidArgument, "USER_ID_INVALID"),
        Row::new(request(&room_id, BOB, "last"), InvalidArgument, "EVENT_ID_INVALID"),
    ];
    let ingest = &stage.clients.ingest;
    assert_failures(rows, async |request| ingest.clone().set_ban_redaction(request).await).await;
    assert_eq!(bans(&stage, 0).await, []);
    let admin = AdminServiceClient::connect(stage.service.url()).await.unwrap();
    let rows = INVALID_TOKENS.map(|token| {
        let request = pb::ListBanRedactionsRequest { page_size: 0, page_token: token.to_owned() };
        Row::new(request, InvalidArgument, "PAGE_TOKEN_INVALID")
    });
    assert_failures(rows, async |request| admin.clone().list_ban_redactions(request).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_takes_effect_is_listed_and_can_be_removed() {
    let stage = Stage::start().await;
    let room_id = stage.room_id();
    let by_bob = [stage.last()];
    let is_redacted = async || {
        let events = stage.clients.clone().events(&room_id, &by_bob).await.unwrap();
        assert_eq!(events.len(), 1);
        events.iter().all(|it| it.redacted)
    };
    assert!(!is_redacted().await);
    let ban = pb::SetBanRedactionRequest {
        before_arrival: Some(-3),
        ..request(&unknown_room(), ALICE, "$ban")
    };
    for request in [request(&room_id, BOB, "$ban"), ban] {
        stage.clients.ingest.clone().set_ban_redaction(request).await.unwrap();
    }
    assert!(is_redacted().await);
    for page_size in [0, 1] {
        let mut listed: Vec<_> = bans(&stage, page_size)
            .await
            .into_iter()
            .map(|it| (it.user_id, it.room_id, it.ban_event_id, it.before_arrival))
            .collect();
        listed.sort();
        let of = |user: &str, room_id: String, before| {
            (user.to_owned(), room_id, "$ban".to_owned(), before)
        };
        let expected = [of(ALICE, unknown_room(), Some(-3)), of(BOB, room_id.clone(), None)];
        assert_eq!(listed, expected);
    }
    stage.clients.ingest.clone().set_ban_redaction(request(&room_id, BOB, "")).await.unwrap();
    assert!(!is_redacted().await);
    assert_eq!(bans(&stage, 0).await.len(), 1);
}

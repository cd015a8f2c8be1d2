//! The RPCs `SetRoomsServed` and `ListRoomsNotServed`: their errors, and what other servers get.

use backscroll::proto::v1::{self as pb, admin_service_client::AdminServiceClient};
use tonic::Code::{InvalidArgument, PermissionDenied};
use tonic_types::StatusExt as _;

use crate::support::{
    clients::reason,
    failures::{Row, Stage, all, assert_failures, requester, unknown_room},
};

fn request(room_ids: Vec<String>, reason: pb::NotServedReason) -> pb::SetRoomsServedRequest {
    pb::SetRoomsServedRequest { room_ids, not_served_reason: reason.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_code_and_reason_and_change_nothing() {
    use pb::NotServedReason::{Blocked, Deriving};
    let stage = Stage::start().await;
    let good = || vec![stage.room_id()];
    let unknown = pb::SetRoomsServedRequest { room_ids: good(), not_served_reason: 99 };
    let mixed = vec![stage.room_id(), "nowhere".to_owned()];
    let rows = [
        Row::new(request(mixed, Blocked), InvalidArgument, "ROOM_ID_INVALID"),
        Row::new(request(vec![stage.room_id(); 1_001], Blocked), InvalidArgument, "TOO_MANY_IDS"),
        Row::new(request(good(), Deriving), InvalidArgument, "NOT_SERVED_REASON_INVALID"),
        Row::new(unknown, InvalidArgument, "NOT_SERVED_REASON_INVALID"),
    ];
    let ingest = &stage.clients.ingest;
    assert_failures(rows, async |request| ingest.clone().set_rooms_served(request).await).await;
    assert_eq!(not_served(&stage, 0).await, []);
}

/// All rooms that are not served, read in pages.
async fn not_served(stage: &Stage, page_size: u32) -> Vec<pb::RoomNotServed> {
    let mut admin = AdminServiceClient::connect(stage.service.url()).await.unwrap();
    let (mut rooms, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListRoomsNotServedRequest { page_size, page_token };
        let page = admin.list_rooms_not_served(request).await.unwrap().into_inner();
        rooms.extend(page.rooms);
        if page.next_page_token.is_empty() {
            return rooms;
        }
        page_token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_is_not_served_refuses_other_servers_only() {
    use pb::NotServedReason::{Importing, PartialState, Unspecified};
    let stage = Stage::start().await;
    let ingest = &stage.clients.ingest;
    let set = async |reason| {
        let rooms = vec![stage.room_id(), unknown_room()];
        ingest.clone().set_rooms_served(request(rooms, reason)).await.unwrap();
    };
    let ask = async |room_id, requester| {
        let request = pb::BackfillRequest {
            room_id,
            requester,
            event_ids: vec![stage.last()],
            limit: Some(1),
            ..pb::BackfillRequest::default()
        };
        let answer = stage.clients.history.clone().backfill(request).await;
        answer.map(|it| it.into_inner().event_ids)
    };
    let two = || requester("two.example");
    for not_served in [Importing, PartialState] {
        set(not_served).await;
        for room_id in [stage.room_id(), unknown_room()] {
            let status = ask(room_id, two()).await.unwrap_err();
            assert_eq!(reason(&status), (PermissionDenied, "ROOM_NOT_SERVED".to_owned()));
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.metadata["not_served_reason"], not_served.as_str_name());
        }
    }
    assert_eq!(ask(stage.room_id(), None).await.unwrap(), [stage.last()]);
    assert_eq!(not_served(&stage, 1).await.len(), 2);
    let explain = pb::ExplainAccessRequest {
        room_id: stage.room_id(),
        event_id: stage.last(),
        requester: two(),
    };
    let explained = stage.clients.history.clone().explain_access(explain).await.unwrap();
    let explained = explained.into_inner();
    assert_eq!(explained.outcome(), pb::AccessOutcome::Refused);
    assert!(explained.facts.iter().any(|it| it.contains("not served")), "{explained:?}");
    set(Unspecified).await;
    assert_eq!(ask(stage.room_id(), two()).await.unwrap(), [stage.last()]);
    assert_eq!(not_served(&stage, 0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_about_a_room_survives_its_deletion() {
    let stage = Stage::start().await;
    let blocked = pb::NotServedReason::Blocked;
    let mut ingest = stage.clients.ingest.clone();
    ingest.set_rooms_served(request(vec![stage.room_id()], blocked)).await.unwrap();
    let delete = pb::DeleteRoomRequest { room_id: stage.room_id(), may_return: true };
    all(ingest.delete_room(delete).await).await.unwrap();
    let listed = not_served(&stage, 0).await;
    let expected =
        pb::RoomNotServed { room_id: stage.room_id(), not_served_reason: blocked.into() };
    assert_eq!(listed, [expected]);
}

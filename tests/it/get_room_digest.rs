//! The RPCs `GetRoomDigest` and `ListEventFlags`: their errors; and the digests follow from the list.

use backscroll::proto::v1 as pb;
use sha2::{Digest as _, Sha256};
use tonic::Code::{InvalidArgument, NotFound};

use crate::support::{
    clients,
    failures::{BOB, INVALID_TOKENS, Row, Stage, assert_failures, unknown_room},
};

fn digest_request(stage: &Stage, prefix_bits: u32) -> pb::GetRoomDigestRequest {
    pb::GetRoomDigestRequest { room_id: stage.room_id(), prefix_bits }
}

fn flags_request(stage: &Stage, prefix_bits: u32, prefix: u32) -> pb::ListEventFlagsRequest {
    pb::ListEventFlagsRequest {
        room_id: stage.room_id(),
        prefix_bits,
        prefix,
        page_size: 7,
        page_token: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_code_and_reason() {
    let stage = Stage::start().await;
    let history = &stage.clients.history;
    let unknown = pb::GetRoomDigestRequest { room_id: unknown_room(), prefix_bits: 0 };
    let rows = [
        Row::new(unknown, NotFound, "ROOM_UNKNOWN"),
        Row::new(digest_request(&stage, 13), InvalidArgument, "PREFIX_INVALID"),
    ];
    assert_failures(rows, async |it| history.clone().get_room_digest(it).await).await;
    let good = || flags_request(&stage, 1, 0);
    let unknown = pb::ListEventFlagsRequest { room_id: unknown_room(), ..good() };
    // A token of the other part of the room.
    let other = history.clone().list_event_flags(flags_request(&stage, 1, 1)).await.unwrap();
    let other = other.into_inner().next_page_token;
    let invalid = INVALID_TOKENS.into_iter().map(str::to_owned).chain([other]);
    let invalid = invalid.map(|page_token| {
        let request = pb::ListEventFlagsRequest { page_token, ..good() };
        Row::new(request, InvalidArgument, "PAGE_TOKEN_INVALID")
    });
    let rows = [
        Row::new(unknown, NotFound, "ROOM_UNKNOWN"),
        Row::new(flags_request(&stage, 13, 0), InvalidArgument, "PREFIX_INVALID"),
        Row::new(flags_request(&stage, 1, 2), InvalidArgument, "PREFIX_INVALID"),
    ];
    let rows = rows.into_iter().chain(invalid);
    assert_failures(rows, async |it| history.clone().list_event_flags(it).await).await;
}

/// The events of a part, page by page.
async fn flags(stage: &Stage, prefix_bits: u32, prefix: u32) -> Vec<pb::EventFlags> {
    let mut history = stage.clients.history.clone();
    let mut request = flags_request(stage, prefix_bits, prefix);
    let mut events = Vec::new();
    loop {
        let page = history.list_event_flags(request.clone()).await.unwrap().into_inner();
        assert!(page.events.len() <= 7);
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            return events;
        }
        request.page_token = page.next_page_token;
    }
}

/// The digest of some events, as the proto describes it.
fn digest(events: &[pb::EventFlags]) -> pb::DigestPart {
    let of_event = |it: &pb::EventFlags| {
        let verdict = match it.verdict() {
            pb::Verdict::Rejected => 2,
            pb::Verdict::SoftFailed => 4,
            _ => 0,
        };
        let mut text = Sha256::digest(it.event_id.as_bytes())[..16].to_vec();
        text.push(u8::from(it.outlier) + verdict);
        u64::from_be_bytes(Sha256::digest(text)[..8].try_into().unwrap())
    };
    pb::DigestPart {
        event_count: u64::try_from(events.len()).unwrap(),
        digest: events.iter().map(of_event).fold(0, |all, it| all ^ it),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_digests_follow_from_the_ids_and_flags() {
    let mut stage = Stage::start().await;
    let mut appends = Vec::new();
    let mut expected = Vec::new();
    for (outlier, verdict) in [
        (true, pb::Verdict::Accepted),
        (false, pb::Verdict::Rejected),
        (false, pb::Verdict::SoftFailed),
        (true, pb::Verdict::Rejected),
    ] {
        let event = stage.room.member(BOB, BOB, "join").after(stage.events.last()).finish();
        let append = clients::request(&stage.room, &event.pdu);
        appends.push(pb::AppendEventsRequest { outlier, verdict: verdict.into(), ..append });
        let verdict = verdict.into();
        let event_id = event.event_id;
        expected.push(pb::EventFlags { event_id, verdict, outlier, is_state: true });
    }
    stage.clients.append(appends).await.unwrap();
    let whole = flags(&stage, 0, 0).await;
    assert_eq!(whole.len(), stage.events.len() + expected.len());
    assert!(expected.iter().all(|it| whole.contains(it)), "{whole:?}");
    let state = whole.iter().filter(|it| it.is_state).count();
    assert_eq!(state, expected.len() + 3, "the create event and two joins besides");
    for prefix_bits in [0, 1, 5] {
        let request = digest_request(&stage, prefix_bits);
        let parts = stage.clients.history.clone().get_room_digest(request).await.unwrap();
        let parts = parts.into_inner().parts;
        assert_eq!(parts.len(), 1 << prefix_bits);
        let mut listed = Vec::new();
        for (prefix, part) in (0..).zip(parts) {
            let events = flags(&stage, prefix_bits, prefix).await;
            assert_eq!(part, digest(&events), "{prefix_bits} {prefix}");
            listed.extend(events);
        }
        assert_eq!(listed, whole);
    }
}

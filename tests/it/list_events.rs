//! The RPC `ListEvents`: its errors and its pages.

use backscroll::proto::v1 as pb;
use tonic::Code::{InvalidArgument, NotFound};

use crate::support::failures::{INVALID_TOKENS, Row, Stage, assert_failures, unknown_room};

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_code_and_reason() {
    let stage = Stage::start().await;
    let unknown = pb::ListEventsRequest { room_id: unknown_room(), ..Default::default() };
    let mut rows = vec![Row::new(unknown, NotFound, "ROOM_UNKNOWN")];
    for token in INVALID_TOKENS {
        let request = pb::ListEventsRequest {
            room_id: stage.room_id(),
            page_token: token.to_owned(),
            ..Default::default()
        };
        rows.push(Row::new(request, InvalidArgument, "PAGE_TOKEN_INVALID"));
    }
    let history = &stage.clients.history;
    assert_failures(rows, async |request| history.clone().list_events(request).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_any_size_list_each_event_once_in_order() {
    let stage = Stage::start().await;
    let mut history = stage.clients.history.clone();
    let expected: Vec<String> = stage.events.iter().map(|it| it.event_id.clone()).collect();
    for page_size in [1, 7, 100, u32::MAX] {
        let mut listed = Vec::new();
        let mut page_token = String::new();
        // Each page has at least one event: more pages than events are a fault.
        for _ in 0..=expected.len() {
            let room_id = stage.room_id();
            let request =
                pb::ListEventsRequest { room_id, page_size, page_token, max_append_number: 0 };
            let page = history.list_events(request).await.unwrap().into_inner();
            assert!(page.events.len() <= usize::try_from(page_size.min(1_000)).unwrap());
            listed.extend(page.events.into_iter().map(|it| it.event_id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(page_token, "", "pages of {page_size} end");
        assert_eq!(listed, expected, "pages of {page_size}");
    }
}

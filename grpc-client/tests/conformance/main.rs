//! What the client promises about HTTP/2 and gRPC, against the server half of `h2`. The byte stream
//! is in memory and the clock is paused, so that no test waits.
#![expect(clippy::unwrap_used, reason = "what must not happen fails the test")]

mod support;

use std::{io, time::Duration};

use backscroll_grpc_client::{
    CONNECT_TIMEOUT, Call, Connect, Connection, EncodedMessage, KEEP_ALIVE_INTERVAL,
    KEEP_ALIVE_TIMEOUT, MAX_RESPONSE_BYTES, SMALL_RESPONSE_BYTES, STREAM_WINDOW,
};
use bytes::Bytes;
use h2::{Reason, server::Builder};
use http::{HeaderMap, Response, StatusCode};
use tokio::{
    io::DuplexStream,
    time::{self, Instant},
};
use tonic::Code;

use self::support::{Client, Memory, PATH, code, message, serve, status_headers};

#[tokio::test(start_paused = true)]
async fn a_unary_call() {
    let mut client = Client::new();
    let call = client.call(&Memory::full());
    let mut server = client.server().await;
    let mut received = server.request().await;
    assert_eq!(received.request.method(), "POST");
    assert_eq!(received.request.uri(), "http://service.example:8470/test.Service/Method");
    assert_eq!(received.request.headers()["content-type"], "application/grpc");
    assert_eq!(received.request.headers()["te"], "trailers");
    let body = received.request.body_mut().data().await.unwrap().unwrap();
    assert_eq!(&body[..], b"\0\0\0\0\x0a\x0a\x08question");
    received.ok(3);
    assert_eq!(call.await.unwrap().unwrap(), [7; 3][..]);
}

#[tokio::test(start_paused = true)]
async fn a_status_in_the_head_needs_no_body() {
    let mut client = Client::new();
    let call = client.call(&Memory::full());
    let mut server = client.server().await;
    let mut response = Response::new(());
    *response.headers_mut() = status_headers("7");
    server.request().await.respond.send_response(response, true).unwrap();
    assert_eq!(code(call).await, Code::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn an_http_status_without_grpc_is_mapped() {
    let mut client = Client::new();
    let mut server = None;
    for (http_status, expected) in [
        (401, Code::Unauthenticated),
        (403, Code::PermissionDenied),
        (404, Code::Unimplemented),
        (503, Code::Unavailable),
        (500, Code::Unknown),
    ] {
        let call = client.call(&Memory::full());
        if server.is_none() {
            server = Some(client.server().await);
        }
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(http_status).unwrap();
        let mut received = server.as_mut().unwrap().request().await;
        received.respond.send_response(response, true).unwrap();
        assert_eq!(code(call).await, expected, "{http_status}");
    }
}

#[tokio::test(start_paused = true)]
async fn responses_that_break_the_protocol_are_internal() {
    let mut client = Client::new();
    let mut server = None;
    for (body, has_status) in [(&b"\0\0\0\0\0"[..], false), (b"\0\0\0\0", true), (b"", true)] {
        let call = client.call(&Memory::full());
        if server.is_none() {
            server = Some(client.server().await);
        }
        let mut received = server.as_mut().unwrap().request().await;
        let mut stream = received.start(Response::new(()));
        stream.send_data(Bytes::from_static(body), false).unwrap();
        let trailers = if has_status { status_headers("0") } else { HeaderMap::new() };
        stream.send_trailers(trailers).unwrap();
        assert_eq!(code(call).await, Code::Internal, "{body:?}");
    }
}

/// The window of a stream is all that the server can send before memory is reserved.
#[tokio::test(start_paused = true)]
async fn a_large_response_waits_for_memory() {
    let mut client = Client::new();
    let memory = Memory::full();
    let mut call = client.call(&memory);
    let mut server = client.server().await;
    let body = message(1 << 20);
    let mut received = server.request().await;
    let mut stream = received.start(Response::new(()));
    stream.reserve_capacity(body.len());
    let window = usize::try_from(STREAM_WINDOW).unwrap();
    let mut sent = 0;
    while sent < window {
        std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        let part = stream.capacity().min(body.len() - sent);
        stream.send_data(body.slice(sent..sent + part), false).unwrap();
        sent += part;
    }
    assert_eq!(sent, window);
    let hour = Duration::from_secs(3_600);
    assert!(time::timeout(hour, &mut call).await.is_err(), "the call waits for memory");
    assert_eq!(stream.capacity(), 0);

    memory.0.add_permits(1);
    stream.send_data(body.slice(sent..), false).unwrap();
    stream.send_trailers(status_headers("0")).unwrap();
    let response = call.await.unwrap().unwrap();
    assert_eq!(response.len(), 1 << 20);
    // The memory is free when the last slice is dropped.
    let slice = response.slice(9..10);
    drop(response);
    assert_eq!(memory.0.available_permits(), 0);
    drop(slice);
    assert_eq!(memory.0.available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_small_response_does_not_wait_for_memory() {
    let mut client = Client::new();
    let call = client.call(&Memory::full());
    let mut server = client.server().await;
    server.request().await.ok(SMALL_RESPONSE_BYTES - 8);
    assert_eq!(code(call).await, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn without_memory_the_call_fails() {
    let mut client = Client::new();
    let memory = Memory::full();
    memory.0.close();
    let call = client.call(&memory);
    let mut server = client.server().await;
    server.request().await.ok(SMALL_RESPONSE_BYTES + 1);
    assert_eq!(code(call).await, Code::ResourceExhausted);
}

#[tokio::test(start_paused = true)]
async fn a_request_larger_than_the_servers_window_is_sent_in_parts() {
    let mut client = Client::new();
    let first = client.call(&Memory::full());
    let stream = client.accepted.recv().await.unwrap();
    let mut server = serve(stream, Builder::new().initial_window_size(100));
    server.request().await.ok(1);
    // By now the client knows the server's window.
    assert_eq!(code(first).await, Code::Ok);
    let text = "a".repeat(100_000);
    let call = client.call_with(&Memory::full(), text.clone());
    let mut received = server.request().await;
    let mut read = 0;
    while let Some(piece) = received.request.body_mut().data().await {
        let piece = piece.unwrap();
        assert!(piece.len() <= 100, "{}", piece.len());
        read += piece.len();
        received.request.body_mut().flow_control().release_capacity(piece.len()).unwrap();
    }
    assert!(read > text.len(), "{read}");
    received.ok(1);
    assert_eq!(code(call).await, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_too_large_is_refused() {
    let mut client = Client::new();
    let memory = Memory::free();
    let call = client.call(&memory);
    let mut server = client.server().await;
    server.request().await.ok(MAX_RESPONSE_BYTES);
    assert_eq!(code(call).await, Code::OutOfRange);

    // The prefix announces little, and the body goes on.
    let call = client.call(&memory);
    let mut received = server.request().await;
    let mut stream = received.start(Response::new(()));
    stream.send_data(Bytes::from(vec![0; MAX_RESPONSE_BYTES + 6]), false).unwrap();
    assert_eq!(code(call).await, Code::OutOfRange);

    // The connection is as good as before.
    let call = client.call(&memory);
    server.request().await.ok(MAX_RESPONSE_BYTES - 8);
    assert_eq!(code(call).await, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_lost_server_is_noticed_by_pings() {
    let mut client = Client::new();
    let call = client.call(&Memory::full());
    // Accepts the connection, and never reads from it.
    let _silent = client.accepted.recv().await.unwrap();
    let start = Instant::now();
    assert_eq!(code(call).await, Code::Unavailable);
    assert_eq!(start.elapsed().as_secs(), (KEEP_ALIVE_INTERVAL + KEEP_ALIVE_TIMEOUT).as_secs());
    let call = client.call(&Memory::full());
    client.server().await.request().await.ok(1);
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_stays_open() {
    let mut client = Client::new();
    let call = client.call(&Memory::full());
    let mut server = client.server().await;
    server.request().await.ok(1);
    assert_eq!(code(call).await, Code::Ok);
    time::sleep(Duration::from_secs(3_600)).await;
    let call = client.call(&Memory::full());
    server.request().await.ok(1);
    assert_eq!(code(call).await, Code::Ok);
    assert!(client.accepted.try_recv().is_err(), "one connection");
}

#[tokio::test(start_paused = true)]
async fn after_goaway_calls_under_way_finish_and_others_use_a_new_connection() {
    let mut client = Client::new();
    let under_way = client.call(&Memory::full());
    let mut first = client.server().await;
    let received = first.request().await;
    first.shutdown.notify_one();
    // Until GOAWAY has been received.
    time::sleep(Duration::from_secs(1)).await;
    let next = client.call(&Memory::full());
    let mut second = client.server().await;
    second.request().await.ok(1);
    assert_eq!(code(next).await, Code::Ok);
    received.ok(1);
    assert_eq!(code(under_way).await, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_reset_stream_fails_one_call_and_not_the_connection() {
    let mut client = Client::new();
    let mut server = None;
    for (reason, expected) in [
        (Reason::REFUSED_STREAM, Code::Unavailable),
        (Reason::CANCEL, Code::Cancelled),
        (Reason::INTERNAL_ERROR, Code::Internal),
        (Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
    ] {
        let call = client.call(&Memory::full());
        if server.is_none() {
            server = Some(client.server().await);
        }
        server.as_mut().unwrap().request().await.respond.send_reset(reason);
        assert_eq!(code(call).await, expected, "{reason}");
    }
    assert!(client.accepted.try_recv().is_err(), "one connection");
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_unavailable_and_opened_again() {
    let mut client = Client::new();
    let call = client.call(&Memory::full());
    let mut server = client.server().await;
    drop(server.request().await);
    drop(server);
    assert_eq!(code(call).await, Code::Unavailable);
    // A call that finds the connection lost is not failed for that.
    let call = client.call(&Memory::full());
    client.server().await.request().await.ok(1);
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_reached_is_unavailable() {
    let client = Client::new();
    let Client { connection, accepted } = client;
    drop(accepted);
    let call = Call {
        path: PATH,
        headers: HeaderMap::new(),
        message: EncodedMessage::new(&String::new()),
    };
    let answer = connection.call::<Bytes>(call, &Memory::full()).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn opening_a_connection_takes_limited_time() {
    struct Never;
    impl Connect for Never {
        type Stream = DuplexStream;

        async fn connect(&self) -> io::Result<DuplexStream> {
            std::future::pending().await
        }
    }
    let connection = Connection::new("http://service.example".parse().unwrap(), Never);
    let message = EncodedMessage::new(&String::new());
    let call = Call { path: PATH, headers: HeaderMap::new(), message };
    let start = Instant::now();
    let answer = connection.call::<Bytes>(call, &Memory::full()).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    assert_eq!(start.elapsed().as_secs(), CONNECT_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn calls_share_one_connection_from_the_start() {
    let mut client = Client::new();
    let memory = Memory::full();
    let calls = [(); 5].map(|()| client.call(&memory));
    let mut server = client.server().await;
    for _ in 0..calls.len() {
        server.request().await.ok(1);
    }
    for call in calls {
        assert_eq!(code(call).await, Code::Ok);
    }
    assert!(client.accepted.try_recv().is_err(), "one connection");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_resets_its_stream() {
    let mut client = Client::new();
    let call = client.call(&Memory::full());
    let mut server = client.server().await;
    let mut received = server.request().await;
    call.abort();
    let reset = std::future::poll_fn(|cx| received.respond.poll_reset(cx)).await;
    assert_eq!(reset.unwrap(), Reason::CANCEL);
}

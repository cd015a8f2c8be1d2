//! A server whose every step the tests choose, and a client that reaches it through memory.

use std::{io, sync::Arc};

use backscroll_grpc_client::{Call, Connect, Connection, EncodedMessage, ReserveMemory};
use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{
    io::DuplexStream,
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};
use tonic::{Code, Status};

pub(crate) const PATH: &str = "/test.Service/Method";

/// Hands the server's ends of new connections to the test.
pub(crate) struct ToTest {
    pub(crate) accept: mpsc::UnboundedSender<DuplexStream>,
}

impl Connect for ToTest {
    type Stream = DuplexStream;

    async fn connect(&self) -> io::Result<DuplexStream> {
        let (client, server) = tokio::io::duplex(64 << 10);
        self.accept.send(server).map_err(|_closed| io::ErrorKind::ConnectionRefused)?;
        Ok(client)
    }
}

/// Memory that is free once the test has added permits.
#[derive(Clone)]
pub(crate) struct Memory(pub(crate) Arc<Semaphore>);

impl Memory {
    pub(crate) fn full() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub(crate) fn free() -> Self {
        Self(Arc::new(Semaphore::new(100)))
    }
}

impl ReserveMemory for Memory {
    type Reserved = tokio::sync::OwnedSemaphorePermit;

    async fn reserve(&self, _bytes: usize) -> Option<Self::Reserved> {
        Arc::clone(&self.0).acquire_owned().await.ok()
    }
}

pub(crate) struct Client {
    pub(crate) connection: Arc<Connection<ToTest>>,
    pub(crate) accepted: mpsc::UnboundedReceiver<DuplexStream>,
}

impl Client {
    pub(crate) fn new() -> Self {
        let (accept, accepted) = mpsc::unbounded_channel();
        let url = "http://service.example:8470/".parse().unwrap();
        Self { connection: Arc::new(Connection::new(url, ToTest { accept })), accepted }
    }

    /// Starts a call, whose request message is "question".
    pub(crate) fn call(&self, memory: &Memory) -> JoinHandle<Result<Bytes, Status>> {
        self.call_with(memory, "question".to_owned())
    }

    pub(crate) fn call_with(
        &self,
        memory: &Memory,
        message: String,
    ) -> JoinHandle<Result<Bytes, Status>> {
        let connection = Arc::clone(&self.connection);
        let memory = memory.clone();
        let headers = HeaderMap::new();
        tokio::spawn(async move {
            let call = Call { path: PATH, headers, message: EncodedMessage::new(&message) };
            connection.call(call, &memory).await
        })
    }

    /// Accepts the next connection, and serves it until the returned server is dropped.
    pub(crate) async fn server(&mut self) -> Server {
        let stream = self.accepted.recv().await.unwrap();
        serve(stream, &Builder::new())
    }
}

/// A served connection: its requests, in order.
pub(crate) struct Server {
    pub(crate) requests: mpsc::UnboundedReceiver<Received>,
    /// Asks for a graceful end by GOAWAY.
    pub(crate) shutdown: Arc<tokio::sync::Notify>,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) struct Received {
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: SendResponse<Bytes>,
}

pub(crate) fn serve(stream: DuplexStream, builder: &Builder) -> Server {
    let (sender, requests) = mpsc::unbounded_channel();
    let shutdown = Arc::new(tokio::sync::Notify::new());
    let asked_to_stop = Arc::clone(&shutdown);
    let builder = builder.clone();
    let task = tokio::spawn(async move {
        let mut connection = builder.handshake(stream).await.unwrap();
        loop {
            tokio::select! {
                accepted = connection.accept() => {
                    let Some(Ok((request, respond))) = accepted else { return };
                    drop(sender.send(Received { request, respond }));
                }
                () = asked_to_stop.notified() => connection.graceful_shutdown(),
            }
        }
    });
    Server { requests, shutdown, task }
}

impl Server {
    pub(crate) async fn request(&mut self) -> Received {
        self.requests.recv().await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Received {
    pub(crate) fn start(&mut self, response: Response<()>) -> SendStream<Bytes> {
        self.respond.send_response(response, false).unwrap()
    }

    /// Responds with a message of this many bytes, and OK.
    pub(crate) fn ok(mut self, bytes: usize) {
        let mut body = self.start(Response::new(()));
        body.send_data(message(bytes), false).unwrap();
        body.send_trailers(status_headers("0")).unwrap();
    }
}

/// A message that holds this many bytes, with its prefix.
pub(crate) fn message(bytes: usize) -> Bytes {
    let message = prost::Message::encode_to_vec(&vec![7_u8; bytes]);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}

pub(crate) fn status_headers(code: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static(code),
    )])
}

pub(crate) async fn code(call: JoinHandle<Result<Bytes, Status>>) -> Code {
    call.await.unwrap().map_or_else(|status| status.code(), |_| Code::Ok)
}

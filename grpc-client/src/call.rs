//! One unary call: a request with one message, a response with one message and a status.

use bytes::Bytes;
use h2::{RecvStream, client::ResponseFuture};
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{CONTENT_TYPE, TE},
    uri::PathAndQuery,
};
use prost::Message;
use tonic::{Code, Status};

use crate::{
    EncodedMessage,
    connection::{Connect, Connection, stream_error},
    message::{PREFIX_BYTES, announced_length, decode},
};

/// Largest response message that is accepted, in bytes. A larger one is OUT_OF_RANGE.
pub const MAX_RESPONSE_BYTES: usize = 8 << 20;

/// Responses of at most this size are read without asking [`ReserveMemory`].
pub const SMALL_RESPONSE_BYTES: usize = 16 << 10;

/// A unary call, ready to be sent.
#[derive(Clone, Debug)]
pub struct Call {
    /// The path of the method: `/package.Service/Method`.
    pub path: &'static str,
    /// Metadata of the request, such as `grpc-timeout`, `user-agent` and `authorization`.
    pub headers: HeaderMap,
    /// The encoded request message.
    pub message: EncodedMessage,
}

/// Limits the memory that responses take.
pub trait ReserveMemory {
    /// Stands for reserved memory, which is free again when this is dropped.
    type Reserved: Send + Sync + 'static;

    /// Waits until a response of this many bytes fits. `None` if it does not fit in time: the call
    /// fails with RESOURCE_EXHAUSTED.
    fn reserve(&self, bytes: usize) -> impl Future<Output = Option<Self::Reserved>> + Send;
}

impl<C: Connect> Connection<C> {
    /// Sends a request and reads the response. Dropping the future cancels the call.
    ///
    /// # Errors
    /// The status of the server; or one that the client makes:
    ///
    /// | status | cause |
    /// |---|---|
    /// | UNAVAILABLE | the connection cannot be opened, or was lost during the call |
    /// | RESOURCE_EXHAUSTED | no memory for the response |
    /// | OUT_OF_RANGE | the response is larger than [`MAX_RESPONSE_BYTES`] |
    /// | INTERNAL | the response breaks the protocol |
    /// | by HTTP status | an HTTP server that does not speak gRPC has responded |
    /// | by HTTP/2 error code | the server has reset the stream |
    pub async fn call<A: Message + Default>(
        &self,
        call: Call,
        memory: &impl ReserveMemory,
    ) -> Result<A, Status> {
        let EncodedMessage(message) = call.message;
        let request = request(self.service(), call.path, call.headers)?;
        let (response, mut send) = self.start_stream(&request).await?;
        // h2 keeps what exceeds the window of the stream, and sends it when the server allows it.
        send.send_data(message, true).map_err(stream_error)?;
        receive(response, memory).await
    }
}

fn request(
    service: &Uri,
    path: &'static str,
    mut headers: HeaderMap,
) -> Result<Request<()>, Status> {
    let mut parts = service.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static(path));
    let uri = Uri::from_parts(parts).map_err(|error| Status::internal(error.to_string()))?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

async fn receive<A: Message + Default>(
    response: ResponseFuture,
    memory: &impl ReserveMemory,
) -> Result<A, Status> {
    let (head, mut body) = response.await.map_err(stream_error)?.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        // A response without a message has its status in the head ("trailers-only").
        error_unless_ok(status)?;
    } else if head.status != StatusCode::OK {
        return Err(status_of_http(head.status));
    }
    let body_bytes = read_body(&mut body, memory).await?;
    let trailers = body.trailers().await.map_err(stream_error)?;
    let status = trailers.as_ref().and_then(Status::from_header_map);
    error_unless_ok(status.ok_or_else(|| Status::internal("the response has no status"))?)?;
    decode(&body_bytes)
}

fn error_unless_ok(status: Status) -> Result<(), Status> {
    if status.code() == Code::Ok { Ok(()) } else { Err(status) }
}

/// Maps the HTTP status of a response that is not gRPC
/// (<https://grpc.github.io/grpc/core/md_doc_http-grpc-status-mapping.html>).
fn status_of_http(status: StatusCode) -> Status {
    let message = format!("HTTP {}", status.as_u16());
    match status {
        StatusCode::UNAUTHORIZED => Status::unauthenticated(message),
        StatusCode::FORBIDDEN => Status::permission_denied(message),
        StatusCode::NOT_FOUND => Status::unimplemented(message),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Status::unavailable(message),
        _ => Status::unknown(message),
    }
}

/// Reads a body into one piece of memory: the piece it was received in, if it was received in one
/// piece. The memory of a large body is reserved before more than the first piece is read.
///
/// Bodies are received in frames of the usual 16 KiB. Frames of up to 1 MiB would save the copy,
/// but took a fifth more time with mimalloc: h2 grows its buffer for each frame.
async fn read_body<M: ReserveMemory>(body: &mut RecvStream, memory: &M) -> Result<Bytes, Status> {
    let Some(first) = body.data().await else { return Ok(Bytes::new()) };
    let first = first.map_err(stream_error)?;
    let length = announced_length(&first).unwrap_or_default();
    if length > MAX_RESPONSE_BYTES {
        return Err(too_large());
    }
    let mut reserved = None;
    if length > SMALL_RESPONSE_BYTES {
        let no_memory = || Status::resource_exhausted("no memory for the response");
        reserved = Some(memory.reserve(length).await.ok_or_else(no_memory)?);
    }
    let mut read = BodyPieces::One(first);
    body.flow_control().release_capacity(read.len()).map_err(stream_error)?;
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(stream_error)?;
        if read.len() + piece.len() > PREFIX_BYTES + MAX_RESPONSE_BYTES {
            return Err(too_large());
        }
        body.flow_control().release_capacity(piece.len()).map_err(stream_error)?;
        read = read.join(&piece, PREFIX_BYTES + length);
    }
    let bytes = match read {
        BodyPieces::One(piece) => piece,
        BodyPieces::Joined(bytes) => bytes.into(),
    };
    Ok(match reserved {
        Some(reserved) => Bytes::from_owner(ReservedBytes { bytes, _reserved: reserved }),
        None => bytes,
    })
}

fn too_large() -> Status {
    Status::out_of_range("the response is too large")
}

/// What was read of a body.
enum BodyPieces {
    /// The first piece, in the memory it was received in.
    One(Bytes),
    /// Several pieces, copied together.
    Joined(Vec<u8>),
}

impl BodyPieces {
    fn len(&self) -> usize {
        match self {
            Self::One(piece) => piece.len(),
            Self::Joined(bytes) => bytes.len(),
        }
    }

    /// Appends a piece. `expected` is the length of the whole body, if it is as announced.
    fn join(self, piece: &[u8], expected: usize) -> Self {
        let mut bytes = match self {
            Self::One(first) => {
                let mut bytes = Vec::with_capacity(expected);
                bytes.extend_from_slice(&first);
                bytes
            }
            Self::Joined(bytes) => bytes,
        };
        bytes.extend_from_slice(piece);
        Self::Joined(bytes)
    }
}

/// Bytes whose memory counts as reserved until the last slice of them is dropped.
struct ReservedBytes<R> {
    bytes: Bytes,
    _reserved: R,
}

impl<R> AsRef<[u8]> for ReservedBytes<R> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

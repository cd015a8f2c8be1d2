//! One question and its answer in gRPC (<https://grpc.github.io/grpc/core/md_doc__p_r_o_t_o_c_o_l-_h_t_t_p2.html>).
//! An answer is put together in one piece of memory, of the right size from the start, and stays
//! there: the PDUs in it are parts of that piece.
//!
//! It comes in frames of the usual 16 KiB. With one frame of up to 1 MiB there would be nothing to
//! put together, and yet it took a fifth more time with the allocator of the program, though not
//! with the system's: as far as could be seen, in growing the buffer that h2 reads a frame into.

use axum::{
    body::Bytes,
    http::{
        HeaderMap, HeaderValue, Request, StatusCode, Uri,
        header::{CONTENT_TYPE, TE, USER_AGENT},
        uri::PathAndQuery,
    },
};
use h2::RecvStream;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::connection::{Connection, broke};
use crate::limits::{Full, Room};

/// What one answer may hold. The service answers with less than 4 MiB; one of a version before this
/// one, beside it while both are restarted, with up to 100 PDUs of 64 KiB.
const MAX_ANSWER_BYTES: usize = 100 * 65_536 + (2 << 20);

/// Answers that are no larger wait for no memory: such as how a service is, and what keys it knows.
const SMALL_BYTES: usize = 16 << 10;

/// What precedes a message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

const OURSELVES: &str = concat!("backscroll-gateway/", env!("CARGO_PKG_VERSION"));

/// A message as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Framed(Bytes);

impl Framed {
    /// Of any message that is shorter than 4 GiB: all are, since what came to us is.
    pub(super) fn new(message: &impl Message) -> Self {
        let length = message.encoded_len();
        let mut framed = Vec::with_capacity(HEAD_BYTES + length);
        framed.push(0);
        framed.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        message.encode_raw(&mut framed);
        Self(framed.into())
    }
}

/// Asks.
pub(super) async fn call<A: Message + Default>(
    connection: &Connection,
    (service, path): (&Uri, &'static str),
    (mut headers, Framed(question)): (HeaderMap, Framed),
) -> Result<A, Status> {
    let mut request = Request::new(());
    *request.method_mut() = axum::http::Method::POST;
    *request.uri_mut() = uri(service, path)?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static(OURSELVES));
    *request.headers_mut() = headers;
    let (answering, mut asking) = connection.begin(&request).await?;
    // It fits into the window of any stream, or waits there.
    asking.send_data(question, true).map_err(broke)?;
    let (head, mut body) = answering.await.map_err(broke)?.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        // A refusal has its status in the head, and no body.
        refused(status)?;
    } else if head.status != StatusCode::OK {
        return Err(of_http(head.status));
    }
    let answer = read(&mut body, &connection.room).await?;
    let trailers = body.trailers().await.map_err(broke)?;
    let status = trailers.as_ref().and_then(Status::from_header_map);
    refused(status.ok_or_else(|| Status::internal("the answer has no status"))?)?;
    A::decode(message(&answer)?).map_err(|error| Status::internal(error.to_string()))
}

fn refused(status: Status) -> Result<(), Status> {
    if status.code() == tonic::Code::Ok { Ok(()) } else { Err(status) }
}

/// Where a service has a method.
fn uri(service: &Uri, path: &'static str) -> Result<Uri, Status> {
    let mut parts = service.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static(path));
    Uri::from_parts(parts).map_err(|error| Status::internal(error.to_string()))
}

/// Something that is no gRPC stands between us and the service.
fn of_http(status: StatusCode) -> Status {
    let says = format!("HTTP {}", status.as_u16());
    match status {
        StatusCode::UNAUTHORIZED => Status::unauthenticated(says),
        StatusCode::FORBIDDEN => Status::permission_denied(says),
        StatusCode::NOT_FOUND => Status::unimplemented(says),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Status::unavailable(says),
        _ => Status::unknown(says),
    }
}

/// The body, whole, in the piece of memory that it came in if it was one. A large one is not read
/// before there is room for it, which it holds for as long as any part of it is there.
async fn read(body: &mut RecvStream, room: &Room) -> Result<Bytes, Status> {
    let (mut whole, mut pieces, mut held) = (Bytes::new(), Vec::new(), None);
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(broke)?;
        if whole.len() + pieces.len() + piece.len() > HEAD_BYTES + MAX_ANSWER_BYTES {
            return Err(Status::out_of_range("the answer is too large"));
        }
        if whole.is_empty() && pieces.is_empty() {
            let length = announced(&piece).unwrap_or_default();
            if length > SMALL_BYTES {
                let full = |Full| Status::resource_exhausted("no memory for the answer");
                held = Some(room.take(length.min(MAX_ANSWER_BYTES)).await.map_err(full)?);
            }
            body.flow_control().release_capacity(piece.len()).map_err(broke)?;
            whole = piece;
            continue;
        }
        body.flow_control().release_capacity(piece.len()).map_err(broke)?;
        if pieces.is_empty() {
            pieces.reserve(announced(&whole).unwrap_or_default().min(MAX_ANSWER_BYTES));
            pieces.extend_from_slice(&whole);
            whole = Bytes::new();
        }
        pieces.extend_from_slice(&piece);
    }
    let bytes = if pieces.is_empty() { whole } else { pieces.into() };
    Ok(match held {
        Some(held) => Bytes::from_owner(Holding { bytes, _held: held }),
        None => bytes,
    })
}

/// An answer, and the room that it takes.
struct Holding {
    bytes: Bytes,
    _held: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Holding {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The length of a message, from its head.
fn announced(framed: &[u8]) -> Option<usize> {
    let [0, length @ ..] = framed.first_chunk::<HEAD_BYTES>()? else { return None };
    usize::try_from(u32::from_be_bytes(*length)).ok()
}

/// The one message of a body.
fn message(body: &Bytes) -> Result<Bytes, Status> {
    let malformed = || Status::internal("the answer is not one whole message");
    let length = announced(body).ok_or_else(malformed)?;
    if body.len() != HEAD_BYTES + length {
        return Err(malformed());
    }
    Ok(body.slice(HEAD_BYTES..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::GetServerKeysRequest;

    #[test]
    fn a_message_in_its_frame() {
        let question = GetServerKeysRequest { server_name: "a.example".to_owned() };
        let Framed(framed) = Framed::new(&question);
        assert_eq!(&framed[..7], [0, 0, 0, 0, 11, 10, 9]);
        let read = GetServerKeysRequest::decode(message(&framed).unwrap()).unwrap();
        assert_eq!(read, question);
    }

    #[test]
    fn what_is_not_one_whole_message_is_refused() {
        for body in [&b""[..], &[0, 0, 0], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 9], &[1, 0, 0, 0, 0]]
        {
            assert!(message(&Bytes::copy_from_slice(body)).is_err(), "{body:?}");
        }
        assert!(message(&Bytes::from_static(&[0; 5])).unwrap().is_empty());
    }
}

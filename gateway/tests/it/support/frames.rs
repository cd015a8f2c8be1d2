//! HTTP/2, frame by frame.

use std::{io, net::SocketAddr};

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Encodes a frame: length, type, flags, stream, payload.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// Decodes frames: the type and payload of each.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, _flags, _, _, _, _, rest @ ..] = bytes {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
        let (payload, rest) = rest.split_at(length);
        frames.push((*kind, payload));
        bytes = rest;
    }
    frames
}

/// Encodes the head of a request, without compression.
pub(crate) fn head(method: &str, path: &str, authorization: &str) -> Vec<u8> {
    let mut head = Vec::new();
    for (name, value) in [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "us.example"),
        ("authorization", authorization),
    ] {
        // A literal without indexing, whose name is a literal too (RFC 7541 §6.2.2).
        head.push(0);
        text(&mut head, name);
        text(&mut head, value);
    }
    head
}

/// Encodes a text after its length: seven bits, or more in further bytes (RFC 7541 §5.1).
fn text(head: &mut Vec<u8>, text: &str) {
    let length = text.len();
    if length < 127 {
        head.push(length.try_into().unwrap());
    } else {
        head.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            head.push(128 | u8::try_from(rest % 128).unwrap());
            rest /= 128;
        }
        head.push(rest.try_into().unwrap());
    }
    head.extend_from_slice(text.as_bytes());
}

/// Connects from an address of its own: 127.0.0.2 and so on.
pub(crate) async fn connect_from(nth: u8, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, nth + 2], 0)))?;
    socket.connect(to).await
}

/// An HTTP/2 connection whose received bytes are read and ignored.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    next: u32,
}

impl Raw {
    /// Connects with settings of six bytes each.
    pub(crate) async fn connect(nth: u8, to: SocketAddr, settings: &[u8]) -> io::Result<Self> {
        let mut stream = connect_from(nth, to).await?;
        stream.write_all(PREFACE).await?;
        stream.write_all(&frame(SETTINGS, 0, 0, settings)).await?;
        Ok(Self { stream, next: 1 })
    }

    /// Opens a stream with this head. Returns its number.
    pub(crate) async fn ask(&mut self, flags: u8, head: &[u8]) -> io::Result<u32> {
        let stream = self.next;
        self.next += 2;
        self.stream.write_all(&frame(HEADERS, flags, stream, head)).await?;
        Ok(stream)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }
}

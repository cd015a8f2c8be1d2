//! A fake homeserver that speaks HTTP/1.1 and nothing else: it records what arrives, byte for byte, and
//! answers with the bytes of a test.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::{until, within};

/// The body of the answer that is given if a test sets no other.
pub(crate) const ANSWER: &str = r#"{"from":"the homeserver"}"#;

/// A request that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// Method, target and version.
    pub(crate) line: String,
    /// The header fields in their order, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// The body, without the framing of chunks.
    pub(crate) body: Vec<u8>,
}

impl Arrived {
    pub(crate) fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap()
    }

    /// All values of a header.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// What the homeserver does with a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Sends these bytes: a whole response.
    Bytes(Vec<u8>),
    /// Sends these bytes and closes the connection.
    Cut(Vec<u8>),
    /// Sends a response with a body of this size, as fast as it is read.
    Large(usize),
}

#[derive(Clone)]
pub(crate) struct FakeHomeserver {
    pub(crate) address: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    arrived: Mutex<Vec<Arrived>>,
    reply: Mutex<Reply>,
    /// While set, every request waits here before it is answered.
    held: Mutex<Option<Arc<Semaphore>>>,
    /// Bytes of heads and bodies that were received, and bytes of large bodies that were sent.
    received: AtomicUsize,
    sent: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    connections: AtomicUsize,
}

/// A whole response with this status and body, and further header lines.
pub(crate) fn response(status: u16, headers: &str, body: &str) -> Reply {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\n{headers}\r\n");
    Reply::Bytes((head + body).into_bytes())
}

impl FakeHomeserver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            arrived: Mutex::default(),
            reply: Mutex::new(response(200, "Content-Type: application/json\r\n", ANSWER)),
            held: Mutex::default(),
            received: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&inner);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let inner = Arc::clone(&serving);
                tokio::spawn(async move {
                    inner.connections.fetch_add(1, Ordering::SeqCst);
                    drop(inner.serve(stream).await);
                    inner.connections.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, inner }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn reply(&self, reply: Reply) {
        *self.inner.reply.lock().unwrap() = reply;
    }

    /// All requests since the last call.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.inner.arrived.lock().unwrap().drain(..).collect()
    }

    /// Waits until this many requests wait for their answers.
    pub(crate) async fn holds(&self, count: usize) {
        until("requests at the homeserver", async || self.under_way() == count).await;
    }

    /// Holds all answers back. Each permit that is added lets one be sent.
    pub(crate) fn hold(&self) -> Arc<Semaphore> {
        let held = Arc::new(Semaphore::new(0));
        *self.inner.held.lock().unwrap() = Some(Arc::clone(&held));
        held
    }

    pub(crate) fn under_way(&self) -> usize {
        self.inner.under_way.load(Ordering::SeqCst)
    }

    /// The most requests that were under way at the same time.
    pub(crate) fn most_under_way(&self) -> usize {
        self.inner.most_under_way.load(Ordering::SeqCst)
    }

    /// The number of open connections.
    pub(crate) fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::SeqCst)
    }

    /// The number of bytes received, and of bytes of large bodies sent.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        let count = |it: &AtomicUsize| it.load(Ordering::SeqCst);
        (count(&self.inner.received), count(&self.inner.sent))
    }

    /// Waits for the next request.
    pub(crate) async fn next(&self) -> Arrived {
        within("a request at the homeserver", async {
            loop {
                if let Some(arrived) = self.arrived().into_iter().next() {
                    return arrived;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

/// Counts a request as under way until it is dropped.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Inner {
    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let Some(arrived) = self.read(&mut stream, &mut buffer).await? else { return Ok(()) };
            let count = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_under_way.fetch_max(count, Ordering::SeqCst);
            let _under_way = UnderWay(&self.under_way);
            self.arrived.lock().unwrap().push(arrived);
            let held = self.held.lock().unwrap().clone();
            if let Some(held) = held {
                let mut byte = [0];
                tokio::select! {
                    permit = held.acquire() => permit.unwrap().forget(),
                    // The other end has closed the connection.
                    _closed = stream.read(&mut byte) => return Ok(()),
                }
            }
            let reply = self.reply.lock().unwrap().clone();
            match reply {
                Reply::Bytes(bytes) => stream.write_all(&bytes).await?,
                Reply::Cut(bytes) => {
                    stream.write_all(&bytes).await?;
                    return stream.shutdown().await;
                }
                Reply::Large(bytes) => self.send_large(&mut stream, bytes).await?,
            }
        }
    }

    async fn send_large(&self, stream: &mut TcpStream, bytes: usize) -> std::io::Result<()> {
        const PIECE: usize = 16 * 1024;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(PIECE);
            stream.write_all(&[b'x'; PIECE][..piece]).await?;
            self.sent.fetch_add(piece, Ordering::SeqCst);
            left -= piece;
        }
        Ok(())
    }

    async fn more(&self, stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
        let count = stream.read_buf(buffer).await?;
        self.received.fetch_add(count, Ordering::SeqCst);
        Ok(count > 0)
    }

    /// Reads the next request. `None` at the end of the connection.
    async fn read(
        &self,
        stream: &mut TcpStream,
        buffer: &mut Vec<u8>,
    ) -> std::io::Result<Option<Arrived>> {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = buffer.split_off(end + 4);
                let head = std::mem::replace(buffer, rest);
                break String::from_utf8(head[..end].to_vec()).unwrap();
            }
            if !self.more(stream, buffer).await? {
                return Ok(None);
            }
        };
        let mut lines = head.split("\r\n").map(str::to_owned);
        let line = lines.next().unwrap();
        let headers: Vec<_> = lines
            .map(|line| {
                let (name, value) = line.split_once(": ").unwrap();
                (name.to_ascii_lowercase(), value.to_owned())
            })
            .collect();
        let value = |name: &str| headers.iter().find(|it| it.0 == name).map(|it| it.1.clone());
        let body = if value("transfer-encoding").is_some() {
            let Some(body) = self.chunks(stream, buffer).await? else { return Ok(None) };
            body
        } else {
            let length: usize = value("content-length").map_or(0, |it| it.parse().unwrap());
            while buffer.len() < length {
                if !self.more(stream, buffer).await? {
                    return Ok(None);
                }
            }
            let rest = buffer.split_off(length);
            std::mem::replace(buffer, rest)
        };
        Ok(Some(Arrived { line, headers, body }))
    }

    async fn chunks(
        &self,
        stream: &mut TcpStream,
        buffer: &mut Vec<u8>,
    ) -> std::io::Result<Option<Vec<u8>>> {
        let mut body = Vec::new();
        loop {
            while let Some(end) = buffer.windows(2).position(|window| window == b"\r\n") {
                let size = std::str::from_utf8(&buffer[..end]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                let whole = end + 2 + size + 2;
                if buffer.len() < whole {
                    break;
                }
                body.extend_from_slice(&buffer[end + 2..end + 2 + size]);
                buffer.drain(..whole);
                if size == 0 {
                    return Ok(Some(body));
                }
            }
            if !self.more(stream, buffer).await? {
                return Ok(None);
            }
        }
    }
}

//! Refuses HTTP/1.1 heads with a `Content-Length` beside a `Transfer-Encoding`: a proxy and the
//! gateway may see different requests in the same bytes (RFC 9112 §6.3). hyper drops the length and
//! accepts the request, and nothing shows that afterwards. So the end of such a head is changed to
//! something that hyper refuses with 400.
//!
//! Bodies are skipped, to find the next head. Inspection stops at anything that hyper refuses.

/// How many bytes of a line are kept. The header fields that matter are shorter.
const MAX_LINE_BYTES: usize = 256;
/// A byte that is invalid in every head.
const INVALID: u8 = 0;

/// The state of a connection between two reads.
#[derive(Debug, Default)]
pub(super) struct Heads {
    position: BytePosition,
    /// The beginning of the current line.
    line: Vec<u8>,
    /// The length of the current line.
    line_bytes: usize,
    head: CurrentHead,
}

/// What the next byte belongs to.
#[derive(Debug, Default, Clone, Copy)]
enum BytePosition {
    #[default]
    Head,
    /// A body, of which this many bytes were not received yet.
    Body(u64),
    /// The line with the size of a chunk.
    ChunkSize,
    /// A chunk, of which this many bytes were not received yet.
    Chunk(u64),
    /// The end of the line after a chunk.
    ChunkEnd,
    /// The trailers after the last chunk.
    Trailers,
    /// A request that hyper refuses. It reads no further.
    Refused,
}

/// The fields that matter of the current head.
#[derive(Debug, Default, Clone, Copy)]
struct CurrentHead {
    bytes: usize,
    has_begun: bool,
    length: Option<u64>,
    has_coding: bool,
}

impl Heads {
    /// Inspects received bytes, and may change the last one of a head. Returns the bytes of a head
    /// that is not complete.
    pub(super) fn inspect(&mut self, bytes: &mut [u8]) -> usize {
        let mut from = 0;
        while let Some(rest) = bytes.get_mut(from..).filter(|rest| !rest.is_empty()) {
            from += match &mut self.position {
                BytePosition::Refused => rest.len(),
                BytePosition::Body(left) | BytePosition::Chunk(left) => {
                    let part = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= u64::try_from(part).unwrap_or(u64::MAX);
                    if *left == 0 {
                        let is_chunk = matches!(self.position, BytePosition::Chunk(_));
                        self.position =
                            if is_chunk { BytePosition::ChunkEnd } else { BytePosition::Head };
                    }
                    part
                }
                BytePosition::Head
                | BytePosition::ChunkSize
                | BytePosition::ChunkEnd
                | BytePosition::Trailers => self.part_of_line(rest),
            };
        }
        self.head.bytes
    }

    /// Inspects up to the end of a line, and returns the number of bytes.
    fn part_of_line(&mut self, rest: &mut [u8]) -> usize {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let part = end.map_or(rest.len(), |end| end + 1);
        let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
        self.line.extend(rest.iter().take(part).take(room));
        self.line_bytes += part;
        if matches!(self.position, BytePosition::Head) {
            self.head.bytes += part;
        }
        if let Some(end) = end
            && self.end_line().is_none()
            && let Some(end) = rest.get_mut(end)
        {
            *end = INVALID;
            self.position = BytePosition::Refused;
        }
        part
    }

    /// Inspects a complete line. `None` if the head must be refused.
    fn end_line(&mut self) -> Option<()> {
        let line = std::mem::take(&mut self.line);
        let is_whole = std::mem::take(&mut self.line_bytes) <= MAX_LINE_BYTES;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.position = match self.position {
            BytePosition::Head if !line.is_empty() => {
                self.header(line, is_whole)?;
                BytePosition::Head
            }
            BytePosition::Head => self.body()?,
            BytePosition::ChunkSize => match chunk_size(line) {
                Some(0) => BytePosition::Trailers,
                Some(size) => BytePosition::Chunk(size),
                None => BytePosition::Refused,
            },
            BytePosition::ChunkEnd => BytePosition::ChunkSize,
            BytePosition::Trailers if line.is_empty() => BytePosition::Head,
            position => position,
        };
        Some(())
    }

    fn header(&mut self, line: &[u8], is_whole: bool) -> Option<()> {
        if !self.head.has_begun {
            self.head.has_begun = true;
            return Some(());
        }
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts.next()?.trim_ascii();
        let value = parts.next().unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = str::from_utf8(value).ok().and_then(|it| it.parse().ok());
            // hyper refuses a length that is not a number, and one that differs from another.
            self.head.length = Some(value.unwrap_or_default());
            return is_whole.then_some(());
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.head.has_coding = true;
            return is_whole.then_some(());
        }
        Some(())
    }

    /// What follows a complete head. `None` if the head must be refused.
    fn body(&mut self) -> Option<BytePosition> {
        let CurrentHead { has_begun, length, has_coding, .. } = self.head;
        if !has_begun {
            // Empty lines before a request are ignored.
            return Some(BytePosition::Head);
        }
        self.head = CurrentHead::default();
        match (length, has_coding) {
            (Some(_), true) => None,
            (None, true) => Some(BytePosition::ChunkSize),
            (None | Some(0), false) => Some(BytePosition::Head),
            (Some(length), false) => Some(BytePosition::Body(length)),
        }
    }
}

/// Parses the size of a chunk. Extensions after it are ignored.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    let digits = str::from_utf8(line.get(..end)?.trim_ascii()).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "GET / HTTP/1.1\r\nContent-Length: 3\r\ntransfer-encoding: chunked\r\n\r\n";

    /// Whether the end of a head was changed. Pieces of every size must have the same outcome.
    fn refuses(text: &str) -> bool {
        let mut outcomes = (1..=text.len()).map(|size| {
            let (mut heads, mut after) = (Heads::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                let mut piece = piece.to_vec();
                heads.inspect(&mut piece);
                after.extend(piece);
            }
            after != text.as_bytes()
        });
        let first = outcomes.next().unwrap();
        assert!(outcomes.all(|it| it == first), "{text}");
        first
    }

    #[test]
    fn a_length_beside_a_coding_is_refused() {
        assert!(refuses(BOTH));
        assert!(refuses(&BOTH.replace("\r\n", "\n")));
        assert!(refuses(&format!("\r\n\r\n{BOTH}")));
        assert!(refuses(
            "GET / HTTP/1.1\r\nTransfer-Encoding:\r\nA: b\r\nCONTENT-LENGTH:0\r\n\r\n"
        ));
        assert!(refuses("GET / HTTP/1.1\r\nTransfer-Encoding : x\r\nContent-Length: 0\r\n\r\n"));
        let padded = format!("GET / HTTP/1.1\r\nContent-Length:{}3\r\n\r\n", " ".repeat(300));
        assert!(refuses(&padded));
        for fine in
            ["Content-Length: 3", "Transfer-Encoding: chunked", "X: y", "X-Content-Length: 3"]
        {
            assert!(!refuses(&format!("GET / HTTP/1.1\r\n{fine}\r\n\r\n")), "{fine}");
        }
        let long = format!("GET /{} HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(999), "b".repeat(999));
        assert!(!refuses(&long));
    }

    #[test]
    fn a_head_after_other_requests_is_found() {
        for before in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n\r\n\r\na",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
             2;a=b\r\n\r\n\r\nA\r\n0123456789\r\n00\r\nTrailer: x\r\nContent-Length: 3\r\n\r\n",
        ] {
            assert!(refuses(&format!("{before}{BOTH}")), "{before}");
            assert!(!refuses(&format!("{before}{before}")), "{before}");
        }
        // A head inside a body is not a head.
        let length = BOTH.len();
        assert!(!refuses(&format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{BOTH}")));
        let chunk = format!("{length:x}\r\n{BOTH}\r\n0\r\n\r\n");
        assert!(!refuses(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}")));
    }

    #[test]
    fn incomplete_heads_are_counted() {
        let mut heads = Heads::default();
        assert_eq!(heads.inspect(&mut b"GET / HTTP/1.1\r\nA".to_vec()), 17);
        assert_eq!(heads.inspect(&mut vec![b'a'; 1_000]), 1_017);
        assert_eq!(heads.inspect(&mut b": b\r\n\r\n".to_vec()), 0);
        assert_eq!(
            heads.inspect(&mut b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n012".to_vec()),
            0
        );
        assert_eq!(heads.inspect(&mut b"345678GET".to_vec()), 3);
    }
}

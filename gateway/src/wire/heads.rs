//! Heads of HTTP/1.1 with a `Content-Length` beside a `Transfer-Encoding`: two who read them may see
//! different requests in the same bytes (RFC 9112 §6.3). hyper drops the length and goes on, so that
//! nothing tells afterwards; here the end of such a head is changed to what hyper answers with 400.
//!
//! To find where heads begin, bodies are skipped. What hyper refuses in any case ends that.

/// Of a line, so much is kept; the header fields that matter are shorter.
const MAX_LINE_BYTES: usize = 256;
/// A byte that no head may hold.
const NEVER: u8 = 0;

/// What has come so far.
#[derive(Debug, Default)]
pub(super) struct Heads {
    at: At,
    /// The line that has not ended.
    line: Vec<u8>,
    line_bytes: usize,
    head: Head,
}

/// Where the next byte belongs.
#[derive(Debug, Default, Clone, Copy)]
enum At {
    #[default]
    Head,
    /// So many bytes of a body are still to come.
    Body(u64),
    /// The size of a chunk.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The end of the line behind a chunk.
    ChunkEnd,
    Trailers,
    /// Nothing of what comes will be read.
    Refused,
}

/// Of the head that has not ended.
#[derive(Debug, Default, Clone, Copy)]
struct Head {
    bytes: usize,
    has_begun: bool,
    length: Option<u64>,
    has_coding: bool,
}

impl Heads {
    /// How much there is of a head that has not come whole.
    pub(super) fn look_at(&mut self, bytes: &mut [u8]) -> usize {
        let mut from = 0;
        while let Some(rest) = bytes.get_mut(from..).filter(|rest| !rest.is_empty()) {
            from += match &mut self.at {
                At::Refused => rest.len(),
                At::Body(left) | At::Chunk(left) => {
                    let part = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= u64::try_from(part).unwrap_or(u64::MAX);
                    if *left == 0 {
                        let is_chunk = matches!(self.at, At::Chunk(_));
                        self.at = if is_chunk { At::ChunkEnd } else { At::Head };
                    }
                    part
                }
                At::Head | At::Size | At::ChunkEnd | At::Trailers => self.part_of_line(rest),
            };
        }
        self.head.bytes
    }

    /// Up to the end of a line, if it is there.
    fn part_of_line(&mut self, rest: &mut [u8]) -> usize {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let part = end.map_or(rest.len(), |end| end + 1);
        let room = MAX_LINE_BYTES.saturating_sub(self.line.len());
        self.line.extend(rest.iter().take(part).take(room));
        self.line_bytes += part;
        if matches!(self.at, At::Head) {
            self.head.bytes += part;
        }
        if let Some(end) = end
            && self.line().is_none()
            && let Some(end) = rest.get_mut(end)
        {
            *end = NEVER;
            self.at = At::Refused;
        }
        part
    }

    /// A line has ended. `None`: the head is to be refused.
    fn line(&mut self) -> Option<()> {
        let line = std::mem::take(&mut self.line);
        let is_whole = std::mem::take(&mut self.line_bytes) <= MAX_LINE_BYTES;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.at = match self.at {
            At::Head if !line.is_empty() => {
                self.header(line, is_whole)?;
                At::Head
            }
            At::Head => self.body()?,
            At::Size => match size(line) {
                Some(0) => At::Trailers,
                Some(size) => At::Chunk(size),
                None => At::Refused,
            },
            At::ChunkEnd => At::Size,
            At::Trailers if line.is_empty() => At::Head,
            at => at,
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
            // hyper refuses what is no number, or another than before.
            self.head.length = Some(value.unwrap_or_default());
            return is_whole.then_some(());
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.head.has_coding = true;
            return is_whole.then_some(());
        }
        Some(())
    }

    /// The head has ended; what follows?
    fn body(&mut self) -> Option<At> {
        let Head { has_begun, length, has_coding, .. } = self.head;
        if !has_begun {
            // Empty lines before a request mean nothing.
            return Some(At::Head);
        }
        self.head = Head::default();
        match (length, has_coding) {
            (Some(_), true) => None,
            (None, true) => Some(At::Size),
            (None | Some(0), false) => Some(At::Head),
            (Some(length), false) => Some(At::Body(length)),
        }
    }
}

/// The size of a chunk, before its extensions.
fn size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    let digits = str::from_utf8(line.get(..end)?.trim_ascii()).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "GET / HTTP/1.1\r\nContent-Length: 3\r\ntransfer-encoding: chunked\r\n\r\n";

    /// Whether the end of a head was changed, however the bytes are cut.
    fn refuses(text: &str) -> bool {
        let mut outcomes = (1..=text.len()).map(|size| {
            let (mut heads, mut after) = (Heads::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                let mut piece = piece.to_vec();
                heads.look_at(&mut piece);
                after.extend(piece);
            }
            after != text.as_bytes()
        });
        let first = outcomes.next().unwrap();
        assert!(outcomes.all(|it| it == first), "{text}");
        first
    }

    #[test]
    fn a_length_beside_a_coding() {
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
    fn behind_other_requests() {
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
        // What looks like one in a body is none.
        let length = BOTH.len();
        assert!(!refuses(&format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{BOTH}")));
        let chunk = format!("{length:x}\r\n{BOTH}\r\n0\r\n\r\n");
        assert!(!refuses(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}")));
    }

    #[test]
    fn heads_that_have_not_come_whole() {
        let mut heads = Heads::default();
        assert_eq!(heads.look_at(&mut b"GET / HTTP/1.1\r\nA".to_vec()), 17);
        assert_eq!(heads.look_at(&mut vec![b'a'; 1_000]), 1_017);
        assert_eq!(heads.look_at(&mut b": b\r\n\r\n".to_vec()), 0);
        assert_eq!(
            heads.look_at(&mut b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n012".to_vec()),
            0
        );
        assert_eq!(heads.look_at(&mut b"345678GET".to_vec()), 3);
    }
}

//! The frames of an HTTP/2 connection, of which only the nine bytes of their heads are read. Control
//! frames are needed for flow control and pings. A flood of them costs the gateway much and its
//! sender little. So each takes some of an allowance, which requests and responses fill again, and
//! time fills slowly.

use tokio::time::Instant;

const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A DATA frame that is shorter than this counts as a control frame.
const SHORT_BYTES: usize = 128;
/// The allowance of a new connection, in control frames.
const FIRST: usize = 200;
/// The largest allowance, in control frames.
const MOST: usize = 1_000;
/// Added to the allowance for each request.
const PER_REQUEST: usize = 16;
/// One is added to the allowance for this many bytes of responses.
const RESPONSE_BYTES: usize = 1_024;
/// Added to the allowance for each second.
const PER_SECOND: usize = 25;
/// A frame counts once more for each payload of this length.
const PAYLOAD_BYTES: usize = 1_024;

/// The allowance is used up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flood;

/// The state of a connection between two reads.
#[derive(Debug)]
pub(super) struct Frames {
    head: [u8; HEAD_BYTES],
    /// Bytes of `head` that were received.
    received: usize,
    /// Bytes of the payload that were not received yet.
    payload: usize,
    /// Bytes of a request's head that is not complete.
    incomplete_head: usize,
    last_stream: u32,
    allowance: usize,
    written: usize,
    filled: Instant,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            head: [0; HEAD_BYTES],
            received: 0,
            payload: 0,
            incomplete_head: 0,
            last_stream: 0,
            allowance: FIRST,
            written: 0,
            filled: Instant::now(),
        }
    }

    /// Inspects received bytes. Returns the bytes of a request's head that is not complete.
    pub(super) fn inspect(&mut self, mut bytes: &[u8]) -> Result<usize, Flood> {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let part = self.payload.min(bytes.len());
                self.payload -= part;
                bytes = bytes.get(part..).unwrap_or_default();
                continue;
            }
            let head = self.head.get_mut(self.received..).unwrap_or_default();
            for (to, from) in head.iter_mut().zip(bytes) {
                *to = *from;
            }
            let part = head.len().min(bytes.len());
            bytes = bytes.get(part..).unwrap_or_default();
            self.received += part;
            if self.received == HEAD_BYTES {
                self.received = 0;
                self.frame()?;
            }
        }
        Ok(self.incomplete_head)
    }

    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        self.fill(self.written / RESPONSE_BYTES);
        self.written %= RESPONSE_BYTES;
    }

    fn frame(&mut self) -> Result<(), Flood> {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.payload = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        if kind == HEADERS || kind == CONTINUATION {
            self.incomplete_head += self.payload;
            if flags & END_HEADERS != 0 {
                self.incomplete_head = 0;
            }
        }
        match kind {
            HEADERS if stream > self.last_stream => {
                self.last_stream = stream;
                self.fill(PER_REQUEST);
                Ok(())
            }
            DATA if self.payload >= SHORT_BYTES => Ok(()),
            _ => self.spend(1 + self.payload / PAYLOAD_BYTES),
        }
    }

    fn fill(&mut self, more: usize) {
        self.allowance = (self.allowance + more).min(MOST);
    }

    fn spend(&mut self, cost: usize) -> Result<(), Flood> {
        if self.allowance < cost {
            let seconds = usize::try_from(self.filled.elapsed().as_secs()).unwrap_or(usize::MAX);
            if seconds > 0 {
                self.filled = Instant::now();
                self.fill(seconds.saturating_mul(PER_SECOND));
            }
        }
        self.allowance = self.allowance.checked_sub(cost).ok_or(Flood)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, length: u32) -> Vec<u8> {
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.resize(HEAD_BYTES + usize::try_from(length).unwrap(), 7);
        bytes
    }

    /// How many of these frames are accepted, one after the other.
    fn taken(frames: &mut Frames, bytes: &[u8]) -> usize {
        (0..10_000).take_while(|_| frames.inspect(bytes).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn control_frames_use_up_the_allowance() {
        // PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, and an unknown type.
        for (kind, length) in [(2, 5), (3, 4), (4, 6), (6, 8), (7, 8), (8, 4), (0x2a, 0)] {
            assert_eq!(taken(&mut Frames::new(), &frame(kind, 0, 0, length)), FIRST, "{kind}");
        }
        assert_eq!(taken(&mut Frames::new(), &frame(DATA, 0, 1, 0)), FIRST);
        assert_eq!(taken(&mut Frames::new(), &frame(DATA, 0, 1, 1)), FIRST);
        assert_eq!(taken(&mut Frames::new(), &frame(CONTINUATION, 0, 1, 0)), FIRST);
        assert_eq!(taken(&mut Frames::new(), &frame(0x2a, 0, 1, 16_384)), FIRST / 17);
        // Repeated trailers.
        assert_eq!(taken(&mut Frames::new(), &frame(HEADERS, 4, 1, 9)), FIRST + PER_REQUEST + 1);
        assert_eq!(taken(&mut Frames::new(), &frame(DATA, 0, 1, 16_384)), 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_responses_and_time_fill_the_allowance() {
        let mut frames = Frames::new();
        // Without a payload, so that nothing of the refused one remains to be received.
        let ping = frame(6, 0, 0, 0);
        assert_eq!(taken(&mut frames, &ping), FIRST);
        frames.inspect(&frame(HEADERS, 4, 1, 9)).unwrap();
        assert_eq!(taken(&mut frames, &ping), PER_REQUEST);
        frames.wrote(10 * RESPONSE_BYTES - 1);
        assert_eq!(taken(&mut frames, &ping), 9);
        frames.wrote(1);
        assert_eq!(taken(&mut frames, &ping), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(taken(&mut frames, &ping), 2 * PER_SECOND);
        frames.wrote(1 << 30);
        assert_eq!(taken(&mut frames, &ping), MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn incomplete_heads_are_counted() {
        let mut frames = Frames::new();
        assert_eq!(frames.inspect(&frame(HEADERS, 0, 1, 1_000)), Ok(1_000));
        for (nth, byte) in frame(CONTINUATION, 0, 1, 500).into_iter().enumerate() {
            let expected = if nth + 1 < HEAD_BYTES { 1_000 } else { 1_500 };
            assert_eq!(frames.inspect(&[byte]), Ok(expected));
        }
        assert_eq!(frames.inspect(&frame(CONTINUATION, END_HEADERS, 1, 0)), Ok(0));
        assert_eq!(frames.inspect(&frame(HEADERS, END_HEADERS | 1, 3, 9)), Ok(0));
    }
}

//! The frames of HTTP/2, of which only the nine bytes at their beginning are read. Whoever asks may
//! send others too: what flow control needs, a ping now and then. A flood of them costs us much and
//! its sender little, so each takes something of an allowance, which requests and answers fill again,
//! and time does slowly.

use tokio::time::Instant;

const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A piece of a body that is shorter than this costs like a frame that brings nothing.
const SHORT_BYTES: usize = 128;
/// How much a connection may send that asks for nothing: at first, and at most.
const FIRST: usize = 200;
const MOST: usize = 1_000;
/// What fills it: a request, so many bytes of answers, and every second.
const A_REQUEST: usize = 16;
const ANSWERED_BYTES: usize = 1_024;
const A_SECOND: usize = 25;
/// A longer payload counts like several frames.
const PAYLOAD_BYTES: usize = 1_024;

/// A flood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// What has come so far.
#[derive(Debug)]
pub(super) struct Frames {
    head: [u8; HEAD_BYTES],
    /// So many bytes of it are there.
    have: usize,
    /// So many bytes of the payload are still to come.
    payload: usize,
    /// Of the head of a request that has not come whole.
    of_head: usize,
    last_stream: u32,
    allowance: usize,
    written: usize,
    filled: Instant,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            head: [0; HEAD_BYTES],
            have: 0,
            payload: 0,
            of_head: 0,
            last_stream: 0,
            allowance: FIRST,
            written: 0,
            filled: Instant::now(),
        }
    }

    /// How much there is of a head that has not come whole.
    pub(super) fn look_at(&mut self, mut bytes: &[u8]) -> Result<usize, TooMany> {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let part = self.payload.min(bytes.len());
                self.payload -= part;
                bytes = bytes.get(part..).unwrap_or_default();
                continue;
            }
            let head = self.head.get_mut(self.have..).unwrap_or_default();
            for (to, from) in head.iter_mut().zip(bytes) {
                *to = *from;
            }
            let part = head.len().min(bytes.len());
            bytes = bytes.get(part..).unwrap_or_default();
            self.have += part;
            if self.have == HEAD_BYTES {
                self.have = 0;
                self.frame()?;
            }
        }
        Ok(self.of_head)
    }

    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        self.fill(self.written / ANSWERED_BYTES);
        self.written %= ANSWERED_BYTES;
    }

    fn frame(&mut self) -> Result<(), TooMany> {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.payload = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        if kind == HEADERS || kind == CONTINUATION {
            self.of_head += self.payload;
            if flags & END_HEADERS != 0 {
                self.of_head = 0;
            }
        }
        match kind {
            HEADERS if stream > self.last_stream => {
                self.last_stream = stream;
                self.fill(A_REQUEST);
                Ok(())
            }
            DATA if self.payload >= SHORT_BYTES => Ok(()),
            _ => self.spend(1 + self.payload / PAYLOAD_BYTES),
        }
    }

    fn fill(&mut self, more: usize) {
        self.allowance = (self.allowance + more).min(MOST);
    }

    fn spend(&mut self, cost: usize) -> Result<(), TooMany> {
        if self.allowance < cost {
            let seconds = usize::try_from(self.filled.elapsed().as_secs()).unwrap_or(usize::MAX);
            if seconds > 0 {
                self.filled = Instant::now();
                self.fill(seconds.saturating_mul(A_SECOND));
            }
        }
        self.allowance = self.allowance.checked_sub(cost).ok_or(TooMany)?;
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

    /// How many of these are taken, one after the other.
    fn taken(frames: &mut Frames, bytes: &[u8]) -> usize {
        (0..10_000).take_while(|_| frames.look_at(bytes).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn what_asks_for_nothing_is_taken_for_a_while() {
        // PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, and what nobody knows.
        for (kind, length) in [(2, 5), (3, 4), (4, 6), (6, 8), (7, 8), (8, 4), (0x2a, 0)] {
            assert_eq!(taken(&mut Frames::new(), &frame(kind, 0, 0, length)), FIRST, "{kind}");
        }
        assert_eq!(taken(&mut Frames::new(), &frame(DATA, 0, 1, 0)), FIRST);
        assert_eq!(taken(&mut Frames::new(), &frame(DATA, 0, 1, 1)), FIRST);
        assert_eq!(taken(&mut Frames::new(), &frame(CONTINUATION, 0, 1, 0)), FIRST);
        assert_eq!(taken(&mut Frames::new(), &frame(0x2a, 0, 1, 16_384)), FIRST / 17);
        // Trailers, time and again.
        assert_eq!(taken(&mut Frames::new(), &frame(HEADERS, 4, 1, 9)), FIRST + A_REQUEST + 1);
        assert_eq!(taken(&mut Frames::new(), &frame(DATA, 0, 1, 16_384)), 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_answers_and_time_make_up_for_it() {
        let mut frames = Frames::new();
        // Without its payload, so that nothing is left over of the one that is refused.
        let ping = frame(6, 0, 0, 0);
        assert_eq!(taken(&mut frames, &ping), FIRST);
        frames.look_at(&frame(HEADERS, 4, 1, 9)).unwrap();
        assert_eq!(taken(&mut frames, &ping), A_REQUEST);
        frames.wrote(10 * ANSWERED_BYTES - 1);
        assert_eq!(taken(&mut frames, &ping), 9);
        frames.wrote(1);
        assert_eq!(taken(&mut frames, &ping), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(taken(&mut frames, &ping), 2 * A_SECOND);
        frames.wrote(1 << 30);
        assert_eq!(taken(&mut frames, &ping), MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn heads_that_have_not_come_whole() {
        let mut frames = Frames::new();
        assert_eq!(frames.look_at(&frame(HEADERS, 0, 1, 1_000)), Ok(1_000));
        for (nth, byte) in frame(CONTINUATION, 0, 1, 500).into_iter().enumerate() {
            let expected = if nth + 1 < HEAD_BYTES { 1_000 } else { 1_500 };
            assert_eq!(frames.look_at(&[byte]), Ok(expected));
        }
        assert_eq!(frames.look_at(&frame(CONTINUATION, END_HEADERS, 1, 0)), Ok(0));
        assert_eq!(frames.look_at(&frame(HEADERS, END_HEADERS | 1, 3, 9)), Ok(0));
    }
}

//! Few lines of many: under overload every refusal would be a line, and writing them down would cost
//! more than refusing. Metrics count all of them.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How many lines there are in a second, of one kind.
const LINES: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// Says which lines are written.
#[derive(Debug, Default)]
pub(crate) struct Sparing(Mutex<Now>);

#[derive(Debug, Default)]
struct Now {
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Sparing {
    /// Whether to write a line, and if so, how many were left out since the one before it.
    pub(crate) fn line(&self) -> Option<u64> {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since.is_none_or(|since| since.elapsed() >= SECOND) {
            (now.since, now.written) = (Some(Instant::now()), 0);
        }
        if now.written >= LINES {
            now.left_out = now.left_out.saturating_add(1);
            return None;
        }
        now.written += 1;
        Some(std::mem::take(&mut now.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn some_lines_a_second_and_the_number_of_the_others() {
        let sparing = Sparing::default();
        for second in 0..3 {
            let lines: Vec<_> = (0..LINES + 5).map(|_| sparing.line()).collect();
            let (written, left_out) = lines.split_at(10);
            assert_eq!(written[0], Some(if second == 0 { 0 } else { 5 }));
            assert!(written[1..].iter().all(|it| *it == Some(0)), "{written:?}");
            assert!(left_out.iter().all(Option::is_none), "{left_out:?}");
            tokio::time::advance(SECOND).await;
        }
    }
}

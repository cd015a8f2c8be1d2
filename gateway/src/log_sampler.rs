//! Limits how many log lines of one kind are written. Under overload there would be one for every
//! refusal, and writing it would cost more than refusing. Metrics count all refusals.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Most lines in each [`INTERVAL`].
const LINES: u32 = 10;
const INTERVAL: Duration = Duration::from_secs(1);

/// Decides which lines are written.
#[derive(Debug, Default)]
pub(crate) struct LogSampler(Mutex<CurrentInterval>);

#[derive(Debug, Default)]
struct CurrentInterval {
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl LogSampler {
    /// `None` if the line must not be written. Otherwise the number of lines that were left out
    /// since the last one.
    pub(crate) fn sample(&self) -> Option<u64> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if current.since.is_none_or(|since| since.elapsed() >= INTERVAL) {
            current.since = Some(Instant::now());
            current.written = 0;
        }
        if current.written >= LINES {
            current.left_out = current.left_out.saturating_add(1);
            return None;
        }
        current.written += 1;
        Some(std::mem::take(&mut current.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn some_lines_a_second_and_the_number_of_the_others() {
        let sampler = LogSampler::default();
        for second in 0..3 {
            let lines: Vec<_> = (0..LINES + 5).map(|_| sampler.sample()).collect();
            let (written, left_out) = lines.split_at(10);
            assert_eq!(written[0], Some(if second == 0 { 0 } else { 5 }));
            assert!(written[1..].iter().all(|it| *it == Some(0)), "{written:?}");
            assert!(left_out.iter().all(Option::is_none), "{left_out:?}");
            tokio::time::advance(INTERVAL).await;
        }
    }
}

//! Which part of a stream is read again at each tick, and which of it was taken before. Pure.
//!
//! Writers draw the numbers of a stream from one sequence, and commit their rows in any order. So a row
//! may become visible after rows with higher numbers, also a row of a writer that was not known before.
//! A window begins at a number up to which everything is settled: it was taken, or will never be
//! visible. Everything above is read at each tick.

use std::{collections::BTreeSet, collections::VecDeque, time::Duration};

/// How long after it has drawn a number a writer may take until its transaction writes.
const DRAWN_TO_WRITTEN: Duration = Duration::from_secs(30);
/// After this time a number counts as settled even though transactions are under way that were begun
/// before: one that takes longer does not write events. The sweep finds what a mistake would cost.
const SETTLED_AFTER: Duration = Duration::from_secs(600);
/// The time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// The transactions that a snapshot of the database sees as under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// All transactions with a lower id have ended.
    pub(crate) oldest: u64,
    /// No transaction with this id or a higher one has begun to write.
    pub(crate) next: u64,
}

/// What one tick has seen of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// The time since the follower started.
    pub(crate) at: Duration,
    /// The highest number that was drawn until then, as far as it can be seen.
    pub(crate) highest: i64,
    /// The transactions that were under way.
    pub(crate) snapshot: Snapshot,
}

/// The part of a stream that is read at each tick: everything above `low`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    low: i64,
    samples: VecDeque<Sample>,
}

impl Window {
    /// A window above a number.
    pub(crate) fn above(low: i64) -> Self {
        Self { low, samples: VecDeque::new() }
    }

    /// Everything up to this number is settled.
    pub(crate) fn low(&self) -> i64 {
        self.low
    }

    /// Notes what a tick has seen, once everything that it has seen was taken. Moves the beginning of
    /// the window.
    pub(crate) fn note(&mut self, sample: Sample) {
        let is_due = self.samples.back().is_none_or(|last| sample.at >= last.at + SAMPLE_INTERVAL);
        if is_due {
            self.samples.push_back(sample);
        }
        while let Some(first) = self.samples.front().copied() {
            if !self.is_settled(first, sample) {
                return;
            }
            self.low = self.low.max(first.highest);
            self.samples.pop_front();
        }
    }

    /// Whether all rows with numbers up to `sample.highest` are visible `now`, if they ever will be.
    fn is_settled(&self, sample: Sample, now: Sample) -> bool {
        let is_old = now.at >= sample.at + SETTLED_AFTER;
        // Their transactions had begun to write at the moment of this later sample.
        let written = self.samples.iter().find(|it| it.at >= sample.at + DRAWN_TO_WRITTEN);
        is_old || written.is_some_and(|written| now.snapshot.oldest >= written.snapshot.next)
    }
}

/// The numbers above the beginning of a window that were taken: the history service has acknowledged
/// their rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    numbers: BTreeSet<i64>,
}

impl Taken {
    /// Of the numbers that are visible, those that were not taken.
    pub(crate) fn fresh(&self, visible: impl IntoIterator<Item = i64>) -> Vec<i64> {
        visible.into_iter().filter(|it| !self.numbers.contains(it)).collect()
    }

    /// Notes that rows were taken, and forgets numbers that are no longer in the window.
    pub(crate) fn note(&mut self, taken: impl IntoIterator<Item = i64>, window: &Window) {
        self.numbers.extend(taken);
        self.numbers = self.numbers.split_off(&window.low().saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What a writer of the simulated homeserver does, and when ticks are.
    #[derive(Clone, Debug)]
    enum Step {
        /// A writer draws a number.
        Draw(u8),
        /// It begins to write the row.
        Write(u8),
        /// The row becomes visible.
        Commit(u8),
        /// The transaction fails: the row will never be visible.
        Abort(u8),
        /// Time passes, in seconds.
        Wait(u16),
        /// The follower ticks.
        Tick,
    }

    /// A homeserver with several writers, which draw from one sequence.
    #[derive(Default)]
    struct Homeserver {
        now: Duration,
        number: i64,
        next_id: u64,
        /// The writers that have drawn a number: when, which, and the id of the transaction.
        under_way: BTreeMap<u8, (Duration, i64, Option<u64>)>,
        visible: BTreeSet<i64>,
    }

    impl Homeserver {
        fn apply(&mut self, step: &Step) {
            match step {
                Step::Draw(writer) if !self.under_way.contains_key(writer) => {
                    self.number += 1;
                    self.under_way.insert(*writer, (self.now, self.number, None));
                }
                Step::Write(writer) => {
                    let Some((_, _, id)) = self.under_way.get_mut(writer) else { return };
                    if id.is_none() {
                        *id = Some(self.next_id);
                        self.next_id += 1;
                    }
                }
                Step::Commit(writer) => {
                    if let Some((_, number, Some(_))) = self.under_way.get(writer) {
                        self.visible.insert(*number);
                        self.under_way.remove(writer);
                    }
                }
                Step::Abort(writer) => {
                    self.under_way.remove(writer);
                }
                Step::Wait(seconds) => {
                    self.now += Duration::from_secs((*seconds).into());
                    let now = self.now;
                    // The promise of a writer: it writes soon after it has drawn, or never; and it
                    // ends at some time.
                    self.under_way.retain(|_, (drawn, _, id)| {
                        let limit = if id.is_some() { SETTLED_AFTER } else { DRAWN_TO_WRITTEN };
                        now < *drawn + limit
                    });
                }
                Step::Draw(_) | Step::Tick => {}
            }
        }

        fn snapshot(&self) -> Snapshot {
            let ids = self.under_way.values().filter_map(|(_, _, id)| *id);
            Snapshot { oldest: ids.min().unwrap_or(self.next_id), next: self.next_id }
        }
    }

    fn step() -> impl Strategy<Value = Step> {
        let writer = 0..4_u8;
        prop_oneof![
            4 => writer.clone().prop_map(Step::Draw),
            4 => writer.clone().prop_map(Step::Write),
            4 => writer.clone().prop_map(Step::Commit),
            1 => writer.prop_map(Step::Abort),
            2 => (0..40_u16).prop_map(Step::Wait),
            4 => Just(Step::Tick),
        ]
    }

    proptest! {
        #[test]
        fn every_row_is_taken_once(steps in prop::collection::vec(step(), 0..300)) {
            let mut homeserver = Homeserver::default();
            let (mut window, mut taken) = (Window::default(), Taken::default());
            let mut all = Vec::new();
            for step in steps.iter().chain([&Step::Tick]) {
                homeserver.apply(step);
                if matches!(step, Step::Tick) {
                    let low = window.low();
                    let visible = homeserver.visible.range(low + 1..).copied();
                    let fresh = taken.fresh(visible);
                    all.extend(fresh.iter().copied());
                    let sample = Sample {
                        at: homeserver.now,
                        highest: homeserver.number,
                        snapshot: homeserver.snapshot(),
                    };
                    window.note(sample);
                    taken.note(fresh, &window);
                }
            }
            all.sort_unstable();
            let expected: Vec<i64> = homeserver.visible.iter().copied().collect();
            prop_assert_eq!(all, expected);
        }
    }

    #[test]
    fn the_window_moves_while_writers_are_idle() {
        let mut window = Window::default();
        for second in 0..40 {
            let snapshot = Snapshot { oldest: 7, next: 7 };
            window.note(Sample { at: Duration::from_secs(second), highest: 100, snapshot });
        }
        assert_eq!(window.low(), 100);
    }

    #[test]
    fn a_transaction_that_is_under_way_keeps_the_window() {
        let mut window = Window::default();
        let sample = |second, oldest| Sample {
            at: Duration::from_secs(second),
            highest: 100,
            snapshot: Snapshot { oldest, next: 9 },
        };
        for second in 0..500 {
            window.note(sample(second, 8));
        }
        assert_eq!(window.low(), 0);
        window.note(sample(500, 9));
        assert_eq!(window.low(), 100);
    }
}

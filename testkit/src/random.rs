//! Random numbers that are the same at each run, and the number of rounds of a random test.

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

/// Pseudo-random numbers from a seed (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

/// How long a random test runs, and from which seed.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// How many rounds to run.
    pub count: u64,
    /// The seed of the first round.
    pub seed: u64,
}

impl Random {
    /// The numbers that follow from a seed.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number: at least 0 and less than `end`, which must not be 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// An index of a list of `length` items; 0 if the list is empty.
    pub fn index(&mut self, length: usize) -> usize {
        let length = u64::try_from(length.max(1)).unwrap();
        usize::try_from(self.below(length)).unwrap()
    }

    /// Whether an event of this probability happens.
    pub const fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

impl Rounds {
    /// Reads `BACKSCROLL_{test}_ROUNDS` and `BACKSCROLL_{test}_SEED`, and prints what is used.
    ///
    /// Without the first variable the test runs `usual` rounds from seed 1. With it the seed is the
    /// time, so that each long run tries other cases, unless the second variable names a seed.
    #[expect(clippy::disallowed_methods, reason = "a long run gets a seed of its own")]
    pub fn of(test: &str, usual: u64) -> Self {
        let rounds_variable = format!("BACKSCROLL_{test}_ROUNDS");
        let seed_variable = format!("BACKSCROLL_{test}_SEED");
        let rounds = number(&rounds_variable);
        let seed = number(&seed_variable).unwrap_or_else(|| match rounds {
            Some(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
            None => 1,
        });
        let count = rounds.unwrap_or(usual);
        println!("{seed_variable}={seed} {rounds_variable}={count}");
        Self { count, seed }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|it| it.parse().unwrap())
}

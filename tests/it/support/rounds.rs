//! How long a random test goes on, and from which seed: both are printed, and the same every time
//! unless more rounds are asked for. Then the time is the seed, so that each long run is another.

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

/// The seed of the usual number of rounds.
const USUAL_SEED: u64 = 1;

/// Rounds and seed of a test, as `BACKSCROLL_{test}_ROUNDS` and `BACKSCROLL_{test}_SEED` say.
pub(crate) fn of(test: &str, usual: u64) -> (u64, u64) {
    let (of_rounds, of_seed) =
        (format!("BACKSCROLL_{test}_ROUNDS"), format!("BACKSCROLL_{test}_SEED"));
    let (rounds, seed) = (number(&of_rounds), number(&of_seed));
    let seed = seed.unwrap_or_else(|| match rounds {
        Some(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
        None => USUAL_SEED,
    });
    let rounds = rounds.unwrap_or(usual);
    println!("{of_seed}={seed} {of_rounds}={rounds}");
    (rounds, seed)
}

#[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|it| it.parse().unwrap())
}

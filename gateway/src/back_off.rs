//! How long to leave somebody alone who has failed. Not for long: whoever asks us names whom we
//! ask, so a stranger could otherwise keep us from a server that was away for a moment.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_mins(1);

/// After so many failures in a row: five seconds, doubled with each, at most a minute.
pub(crate) fn back_off(failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    FIRST.saturating_mul(doubled).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_and_longer() {
        let seconds = [0, 1, 2, 3, 4, 5, 100].map(|failures| back_off(failures).as_secs());
        assert_eq!(seconds, [5, 5, 10, 20, 40, 60, 60]);
    }
}

//! How long to wait after failures. Waits are short: any client can name the server that is asked, and
//! could otherwise keep the gateway from a server that was away for a moment.

use std::time::Duration;

use crate::random::Random;

const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_mins(1);
/// By how much a wait may be longer, so that several gateways do not repeat a request at the same
/// moment.
const JITTER: f64 = 0.25;

/// The wait after this many failures in a row: five seconds, doubled with each failure, at most a
/// minute; and up to a quarter longer by chance.
pub(crate) fn back_off(failures: u32, random: &Random) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    let wait = SHORTEST.saturating_mul(doubled).min(LONGEST);
    wait.mul_f64(1.0 + JITTER * random.fraction())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let random = Random::new(|| 0.0);
        let seconds = [0, 1, 2, 3, 4, 5, 100].map(|it| back_off(it, &random).as_secs());
        assert_eq!(seconds, [5, 5, 10, 20, 40, 60, 60]);
    }

    #[test]
    fn chance_makes_a_wait_longer_by_up_to_a_quarter() {
        let random = Random::new(|| 0.999_999);
        let ms = [1, 100].map(|it| back_off(it, &random).as_millis());
        assert_eq!(ms, [6_249, 74_999]);
    }
}

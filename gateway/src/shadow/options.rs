//! Which requests are compared, as options and flags.

use super::ShadowResults;

/// Who answers a request that the history service can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Answerer {
    /// The homeserver answers every request. The history service is asked only to compare.
    #[value(name = "answer=synapse")]
    Homeserver,
    /// The history service answers as without a comparison. The homeserver is asked again.
    #[value(name = "answer=history")]
    History,
}

impl Answerer {
    /// The name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Homeserver => "synapse",
            Self::History => "history",
        }
    }
}

/// Which requests are compared.
#[derive(Clone, Debug)]
pub struct ShadowOptions {
    /// Who answers.
    pub answerer: Answerer,
    /// The share of requests that are compared: from 0 to 1.
    pub rate: f64,
    /// The most comparisons at the same time.
    pub concurrency: usize,
    /// Where results are counted.
    pub results: ShadowResults,
}

impl ShadowOptions {
    /// The default of [`Self::rate`].
    pub const RATE: f64 = 1.0;
    /// The default of [`Self::concurrency`]. Each holds at most one answer of the homeserver.
    pub const CONCURRENCY: usize = 8;

    /// The defaults.
    #[must_use]
    pub fn new(answerer: Answerer) -> Self {
        let results = ShadowResults::default();
        Self { answerer, rate: Self::RATE, concurrency: Self::CONCURRENCY, results }
    }
}

/// The options, as flags and environment variables.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Comparing with the homeserver")]
pub struct ShadowFlags {
    /// Asks the homeserver and the history service, answers with one of them, and compares the answers
    /// afterwards. With answer=synapse everything is answered by the homeserver, as if there was no
    /// history service. See `backscroll-gateway shadow-report`.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_SHADOW",
        value_name = "ANSWERER",
        value_enum,
        requires = "fallback"
    )]
    pub shadow: Option<Answerer>,

    /// The share of requests that are compared: from 0 to 1.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_SHADOW_RATE",
        value_name = "SHARE",
        default_value_t = ShadowOptions::RATE,
        value_parser = share,
        requires = "shadow"
    )]
    pub shadow_rate: f64,

    /// The most comparisons at the same time. Requests beyond it are answered, and not compared.
    #[arg(
        long,
        env = "BACKSCROLL_GATEWAY_SHADOW_CONCURRENCY",
        value_name = "COUNT",
        default_value_t = ShadowOptions::CONCURRENCY,
        value_parser = concurrency,
        requires = "shadow"
    )]
    pub shadow_concurrency: usize,
}

impl ShadowFlags {
    /// The options; `None` if nothing is compared.
    #[must_use]
    pub fn into_options(self) -> Option<ShadowOptions> {
        let Self { shadow, shadow_rate: rate, shadow_concurrency: concurrency } = self;
        shadow.map(|answerer| ShadowOptions { rate, concurrency, ..ShadowOptions::new(answerer) })
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share @ 0.0..=1.0) => Ok(share),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

fn concurrency(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=256) => Ok(count),
        _ => Err("expected a number from 1 to 256".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_counts_have_bounds() {
        for (text, expected) in [("0", true), ("0.01", true), ("1", true), ("1.1", false)] {
            assert_eq!(share(text).is_ok(), expected, "{text}");
        }
        for text in ["-0.1", "NaN", "inf", "10%", ""] {
            assert!(share(text).is_err(), "{text}");
        }
        for (text, expected) in [("0", false), ("1", true), ("256", true), ("257", false)] {
            assert_eq!(concurrency(text).is_ok(), expected, "{text}");
        }
    }
}

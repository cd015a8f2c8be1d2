//! The command `shadow-report`: prints what the comparisons of a running gateway have found.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, bail};
use axum::{
    body::{Body, Bytes},
    http::Uri,
};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time;

use super::results::{PATH, ShadowReport, Times, Unexplained, meaning};

/// Longest time for the answer of the gateway.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// The most unexplained differences that are printed.
const MAX_PRINTED: usize = 5;
/// From this number of compared questions on, the advice relies on them.
const ENOUGH: u64 = 1_000;

/// Prints what the comparisons of a running gateway have found: how many answers of the homeserver and
/// of the history service were the same, and why others were not.
#[derive(Clone, Debug, clap::Args)]
pub struct ShadowReportFlags {
    /// The address at which the gateway serves its metrics.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9471")]
    pub url: Uri,
}

impl ShadowReportFlags {
    /// Asks the gateway, and returns the report as text.
    ///
    /// # Errors
    /// When the gateway does not answer, or its answer is no report.
    pub async fn report(self) -> anyhow::Result<String> {
        let url = format!("{}{PATH}", self.url.to_string().trim_end_matches('/'));
        let body = time::timeout(TIMEOUT, fetch(&url)).await;
        let body = body.with_context(|| format!("{url} did not answer in time"))??;
        let report = serde_json::from_slice(&body);
        let report: ShadowReport = report.with_context(|| format!("{url} is no report"))?;
        Ok(table(&report))
    }
}

async fn fetch(url: &str) -> anyhow::Result<Bytes> {
    let url: Uri = url.parse().context("--url")?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let answer = client.get(url.clone()).await.with_context(|| format!("cannot reach {url}"))?;
    if !answer.status().is_success() {
        bail!(
            "{url} answers with {}: start the gateway with --shadow and --metrics-listen",
            answer.status()
        );
    }
    let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
    Ok(body.map_err(|error| anyhow::anyhow!("cannot read {url}: {error}"))?.to_bytes())
}

/// The report as text.
fn table(report: &ShadowReport) -> String {
    let mut text = String::new();
    write_table(report, &mut text).expect("writing to a string does not fail");
    text
}

fn write_table(report: &ShadowReport, out: &mut String) -> std::fmt::Result {
    let compared = report.same + report.deliberate + report.race + report.unexplained;
    writeln!(out, "answered by {}, {} of the requests compared", report.answer, report.rate)?;
    writeln!(out)?;
    writeln!(out, "{compared:>9}  questions compared")?;
    writeln!(out, "{:>9}  same answer", report.same)?;
    writeln!(out, "{:>9}  differ deliberately:", report.deliberate)?;
    for (reason, count) in &report.reasons {
        let meaning = meaning(reason).unwrap_or("A reason that this version does not know.");
        let reason = reason.trim_start_matches("deliberate_");
        writeln!(out, "{count:>17}  {reason}: {meaning}")?;
    }
    writeln!(out, "{:>9}  races: the same when both were asked again", report.race)?;
    writeln!(out, "{:>9}  UNEXPLAINED", report.unexplained)?;
    let not_compared: u64 = report.not_compared.values().sum();
    writeln!(out, "{not_compared:>9}  not compared:")?;
    for (why, count) in &report.not_compared {
        writeln!(out, "{count:>17}  {why}")?;
    }
    writeln!(out)?;
    writeln!(out, "time to answer    median      95 %")?;
    for (name, Times { p50, p95 }) in
        [("history", report.history_ms), ("synapse", report.homeserver_ms)]
    {
        writeln!(out, "  {name:<9} {p50:>9.1} ms {p95:>7.1} ms")?;
    }
    if report.unexplained > 0 {
        writeln!(out)?;
        writeln!(out, "the last unexplained differences:")?;
        for it in report.last_unexplained.iter().rev().take(MAX_PRINTED) {
            write_unexplained(it, out)?;
        }
    }
    writeln!(out)?;
    writeln!(out, "{}", advice(report))
}

/// Writes a difference. Ids are escaped, because they may contain any character.
fn write_unexplained(it: &Unexplained, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "  {} of {:?} by {:?}: history {:?}, synapse {:?}, {} events differ",
        it.endpoint, it.room_id, it.origin, it.history, it.homeserver, it.event_count
    )?;
    for event in &it.events {
        let form = |hash: &str| match hash.get(..12) {
            Some(start) => format!("has it as {start}…"),
            None => "does not have it".to_owned(),
        };
        let (ours, theirs) = (form(&event.history_sha256), form(&event.homeserver_sha256));
        writeln!(out, "    {:?}: history {ours}, synapse {theirs}", event.event_id)?;
    }
    Ok(())
}

/// One sentence that says what to do next.
fn advice(report: &ShadowReport) -> &'static str {
    let compared = report.same + report.deliberate + report.race + report.unexplained;
    let not_compared: u64 = report.not_compared.values().sum();
    if report.answer.is_empty() {
        "Nothing is compared: start the gateway with --shadow."
    } else if report.unexplained > 0 {
        "Do not switch over: answers differ and it is not known why. Please report the differences."
    } else if compared == 0 && not_compared > 0 {
        "Nothing could be compared yet: see the causes above."
    } else if compared < ENOUGH {
        "No unexplained difference yet, but too few questions: wait for more before you switch over."
    } else if not_compared > compared {
        "No unexplained difference, but most questions could not be compared: see the causes above."
    } else {
        "No unexplained difference: the history service may answer (--shadow answer=history, then none)."
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use super::{super::results::NamedEvent, *};

    fn report() -> ShadowReport {
        ShadowReport {
            answer: "synapse".to_owned(),
            rate: 0.5,
            same: 1_200,
            deliberate: 3,
            reasons: BTreeMap::from([("deliberate_min_depth".to_owned(), 3)]),
            race: 2,
            not_compared: BTreeMap::from([("too_many".to_owned(), 7)]),
            history_ms: Times { p50: 1.25, p95: 9.5 },
            homeserver_ms: Times { p50: 80.0, p95: 1_400.0 },
            ..ShadowReport::default()
        }
    }

    #[test]
    fn a_report_without_unexplained_differences() {
        let expected = "\
answered by synapse, 0.5 of the requests compared

     1205  questions compared
     1200  same answer
        3  differ deliberately:
                3  min_depth: Synapse ignores min_depth.
        2  races: the same when both were asked again
        0  UNEXPLAINED
        7  not compared:
                7  too_many

time to answer    median      95 %
  history         1.2 ms     9.5 ms
  synapse        80.0 ms  1400.0 ms

No unexplained difference: the history service may answer (--shadow answer=history, then none).
";
        assert_eq!(table(&report()), expected);
    }

    #[test]
    fn unexplained_differences_are_printed_with_escaped_ids() {
        let event = NamedEvent {
            event_id: "$a\u{1b}[2J".to_owned(),
            history_sha256: "0123456789abcdef".to_owned(),
            homeserver_sha256: String::new(),
        };
        let difference = Unexplained {
            endpoint: "backfill".to_owned(),
            room_id: "!r:a.example\n".to_owned(),
            origin: "b.example".to_owned(),
            history: "200".to_owned(),
            homeserver: "200".to_owned(),
            event_count: 1,
            events: vec![event],
            ..Unexplained::default()
        };
        let last_unexplained = VecDeque::from([difference]);
        let text = table(&ShadowReport { unexplained: 1, last_unexplained, ..report() });
        assert!(text.contains(r#"backfill of "!r:a.example\n" by "b.example""#), "{text}");
        assert!(
            text.contains(
                r#""$a\u{1b}[2J": history has it as 0123456789ab…, synapse does not have it"#
            ),
            "{text}"
        );
        assert!(text.ends_with("Please report the differences.\n"), "{text}");
    }

    #[test]
    fn advice_depends_on_what_was_found() {
        let begins = |report: &ShadowReport, start: &str| {
            assert!(advice(report).starts_with(start), "{}", advice(report));
        };
        begins(&ShadowReport::default(), "Nothing is compared");
        let unexplained = ShadowReport { unexplained: 1, ..report() };
        begins(&unexplained, "Do not switch over");
        begins(&ShadowReport { same: 5, ..report() }, "No unexplained difference yet");
        let many = BTreeMap::from([("feeder_away".to_owned(), 9_000)]);
        begins(
            &ShadowReport { not_compared: many.clone(), ..report() },
            "No unexplained difference, but",
        );
        let none = ShadowReport { same: 0, deliberate: 0, race: 0, not_compared: many, ..report() };
        begins(&none, "Nothing could be compared");
    }
}

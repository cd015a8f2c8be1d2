//! Compares two answers. A difference counts only if it is still there when both sides are asked again,
//! after a tick of the feeder that began later.

use std::{fmt::Write as _, time::Duration};

use axum::body::Bytes;
use tokio::{
    task,
    time::{self, Instant},
};

use super::{
    begin::{ANSWER_TIME, Comparison},
    digests::hashes,
    results::{NamedEvent, Unexplained},
    sides::{HistorySide, HomeserverSide, SideAnswer, ask_homeserver},
};
use crate::{
    history::FeederState,
    proto::v1::{
        CompareAnswersRequest, CompareAnswersResponse, ComparisonOutcome, DifferenceReason,
        EventDifference, compare_answers_request::Question,
    },
};

/// How often both sides are asked.
const MAX_TRIES: u32 = 3;
/// Longest wait for the tick of the feeder after which both are asked again.
const MAX_WAIT: Duration = Duration::from_secs(15);
/// Pause between two questions about the feeder.
const FEEDER_PAUSE: Duration = Duration::from_millis(250);
/// The most events of a difference that are logged.
const MAX_NAMED: usize = 10;

/// What a comparison has found.
#[derive(Debug)]
enum Found {
    Same,
    Explained(Vec<DifferenceReason>),
    Different(Vec<EventDifference>),
    NotComparable(&'static str),
}

impl Comparison {
    pub(super) async fn ask_homeserver(&self) -> HomeserverSide {
        let until = Instant::now() + ANSWER_TIME;
        ask_homeserver(&self.parts.homeserver, self.forwarded.clone(), until).await
    }

    /// Compares both answers, asks again if they differ without an explanation, and counts the result.
    pub(super) async fn run(mut self, history: HistorySide, homeserver: HomeserverSide) {
        let results = self.parts.results.clone();
        results.took(history.took, homeserver.took);
        let (mut ours, mut theirs) = (history.into_answer(), homeserver.answer);
        let mut nth = 1;
        loop {
            let described = [describe(&ours), describe(&theirs)];
            let found = self.compare(ours, theirs).await;
            match found {
                Found::Same if nth == 1 => results.same(),
                Found::Same => results.race(),
                Found::Explained(reasons) => results.deliberate(&reasons),
                Found::NotComparable(why) => results.not_compared(why),
                Found::Different(events) if nth == MAX_TRIES => {
                    self.unexplained(described, &events);
                }
                Found::Different(_) if !self.next_tick().await => {
                    results.not_compared("feeder_behind");
                }
                Found::Different(_) => {
                    nth += 1;
                    theirs = self.ask_homeserver().await.answer;
                    let until = Instant::now() + ANSWER_TIME;
                    let asked = HistorySide::ask(&self.parts.history, &self.question, until);
                    ours = asked.await.into_answer();
                    continue;
                }
            }
            self.concluded = true;
            return;
        }
    }

    async fn compare(&self, ours: SideAnswer, theirs: SideAnswer) -> Found {
        match (ours, theirs) {
            (SideAnswer::NotComparable(why), _) | (_, SideAnswer::NotComparable(why)) => {
                Found::NotComparable(why)
            }
            (SideAnswer::Events(ours), SideAnswer::Events(theirs)) => {
                self.compare_events(ours, theirs).await
            }
            (ours, theirs) if ours == theirs => Found::Same,
            _ => Found::Different(Vec::new()),
        }
    }

    async fn compare_events(&self, ours: Bytes, theirs: Bytes) -> Found {
        let is_list = matches!(self.question, Question::Backfill(_));
        let pdus = theirs.clone();
        // Reading both takes some milliseconds for large answers.
        let compared = task::spawn_blocking(move || have_same_events(&ours, &theirs, is_list));
        match compared.await {
            Ok(Some(true)) => return Found::Same,
            Ok(Some(false)) => {}
            Ok(None) | Err(_) => return Found::NotComparable("answer_too_large_or_broken"),
        }
        let request = CompareAnswersRequest { question: Some(self.question.clone()), pdus };
        let until = Instant::now() + ANSWER_TIME;
        let answer = self.parts.history.compare_answers(&request, until).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(status) => {
                // The gateway would not answer from the history service now.
                let found = HistorySide::failed(status, Duration::ZERO).into_answer();
                return match found {
                    SideAnswer::NotComparable(why) => Found::NotComparable(why),
                    _ => Found::Different(Vec::new()),
                };
            }
        };
        let CompareAnswersResponse { differences, .. } = &*answer;
        match answer.outcome() {
            ComparisonOutcome::Explained => Found::Explained(answer.reasons().collect()),
            // It has answered otherwise before: that must not happen again.
            ComparisonOutcome::Same
            | ComparisonOutcome::Unexplained
            | ComparisonOutcome::Unspecified => Found::Different(differences.clone()),
        }
    }

    /// Waits until a tick of the feeder has ended that began after now. False if that takes too long.
    async fn next_tick(&self) -> bool {
        let began = Instant::now();
        while began.elapsed() < MAX_WAIT {
            time::sleep(FEEDER_PAUSE).await;
            let waited = began.elapsed();
            let FeederState { is_ready, lag } = self.parts.history.feeder().await;
            if is_ready && lag.is_some_and(|lag| lag <= waited) {
                return true;
            }
        }
        false
    }

    /// Counts and logs a difference that is not explained. Content is not logged, only hashes.
    fn unexplained(&self, described: [String; 2], events: &[EventDifference]) {
        let [history, homeserver] = described;
        let named = events.iter().take(MAX_NAMED).map(|it| NamedEvent {
            event_id: it.event_id.clone(),
            history_sha256: hex(&it.our_sha256),
            homeserver_sha256: hex(&it.homeserver_sha256),
        });
        let unexplained = Unexplained {
            at_ms: self.parts.clock.now_ms(),
            endpoint: match self.question {
                Question::Backfill(_) => "backfill".to_owned(),
                Question::GetMissingEvents(_) => "get_missing_events".to_owned(),
            },
            room_id: self.room_id().to_owned(),
            origin: self.requester().map(|it| it.origin.clone()).unwrap_or_default(),
            history,
            homeserver,
            event_count: events.len(),
            events: named.collect(),
        };
        tracing::warn!(
            endpoint = %unexplained.endpoint,
            room = ?unexplained.room_id,
            origin = ?unexplained.origin,
            history = ?unexplained.history,
            homeserver = ?unexplained.homeserver,
            event_count = unexplained.event_count,
            events = ?unexplained.events,
            "the homeserver has answered otherwise, and that is not explained"
        );
        self.parts.results.unexplained(unexplained);
    }
}

fn describe(answer: &SideAnswer) -> String {
    match answer {
        SideAnswer::Events(_) => "200".to_owned(),
        SideAnswer::Refused(status, errcode) => {
            let errcode: String = errcode.chars().take(64).collect();
            format!("{status} {errcode}")
        }
        SideAnswer::NotComparable(why) => (*why).to_owned(),
    }
}

/// Whether two JSON arrays have the same events: as a list, or as a set. `None` if one is no JSON array.
fn have_same_events(ours: &[u8], theirs: &[u8], as_list: bool) -> Option<bool> {
    let (mut ours, mut theirs) = (hashes(ours)?, hashes(theirs)?);
    if !as_list {
        ours.sort_unstable();
        theirs.sort_unstable();
    }
    Some(ours == theirs)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_compared_as_a_list_or_as_a_set() {
        let same = |ours: &str, theirs: &str, as_list| {
            have_same_events(ours.as_bytes(), theirs.as_bytes(), as_list)
        };
        assert_eq!(same(r#"[{"a":1},{"b":2}]"#, r#"[{"b":2},{"a":1}]"#, false), Some(true));
        assert_eq!(same(r#"[{"a":1},{"b":2}]"#, r#"[{"b":2},{"a":1}]"#, true), Some(false));
        assert_eq!(same(r#"[{"a":1}]"#, r#"[{"a":1},{"a":1}]"#, false), Some(false));
        assert_eq!(same(r#"[{"a":1}]"#, "{}", false), None);
    }
}

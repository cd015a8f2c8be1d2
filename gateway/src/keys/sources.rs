//! Where keys come from when they are not in memory. Checks every answer; remembers none.

use std::time::Duration;

use backscroll_matrix::{AnswerFault, KeyAnswer, SignedObject, SignedObjectError};
use serde_json::{json, value::RawValue};

use crate::{
    clock::Clock,
    discovery::{Discovery, Unreachable},
    history::{NoStoredKeys, StoredKeys, StoredKeysClient},
    server_name::ServerName,
};

/// Nobody is believed for longer than this after he was asked.
pub(super) const MAX_VALIDITY: Duration = Duration::from_hours(7 * 24);

/// How far the history service's clock may be ahead of ours.
const MAX_SKEW_MS: u64 = 3_600_000;

const KEY_TARGET: &str = "/_matrix/key/v2/server";
const QUERY_TARGET: &str = "/_matrix/key/v2/query";
/// Of one server's answer. A real one has some 500.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Of a notary's, which is a list.
const MAX_NOTARY_BYTES: usize = 256 * 1024;

/// Asks for keys.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) discovery: Discovery,
    pub(super) history: StoredKeysClient,
    pub(super) clock: Clock,
}

/// Keys that are valid now.
#[derive(Debug)]
pub(super) struct Obtained {
    pub(super) keys: KeyAnswer,
    /// The answer that they stand in, as it came.
    pub(super) answer: String,
}

/// What the history service remembers of a server's keys.
#[derive(Debug)]
pub(super) enum Remembered {
    /// Nothing, or it does not say.
    Unknown,
    /// There were some, and they are not valid any more.
    Ended,
    /// These, fetched so long ago.
    Valid { keys: KeyAnswer, age: Duration },
}

/// Why an answer is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotObtained {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error(transparent)]
    Json(#[from] SignedObjectError),
    #[error(transparent)]
    Answer(#[from] AnswerFault),
    #[error("the answer has expired")]
    Expired,
    #[error("the notary has not signed the answer")]
    NotSigned,
    #[error("the notary knows nothing")]
    NothingKnown,
}

impl Sources {
    /// The keys that the history service remembers.
    pub(super) async fn history_keys(&self, server: &ServerName) -> Remembered {
        let StoredKeys { answer, fetched_ts } = match self.history.get(server.to_string()).await {
            Ok(remembered) => remembered,
            Err(NoStoredKeys::Expired) => return Remembered::Ended,
            Err(NoStoredKeys::Unknown) => return Remembered::Unknown,
            Err(NoStoredKeys::Failed(status)) => {
                tracing::debug!(%status, "the history service does not give keys");
                return Remembered::Unknown;
            }
        };
        let keys = SignedObject::parse(&answer).map_err(AnswerFault::from);
        let keys = keys.and_then(|answer| KeyAnswer::read_of(server.as_str(), &answer));
        let Ok(mut keys) = keys else { return Remembered::Ended };
        // The two clocks may differ a little: what seems to have been fetched in time to come was
        // now. If by more, one was set, and nobody knows when it was.
        let now_ms = self.clock.now_ms();
        if fetched_ts > now_ms.saturating_add(MAX_SKEW_MS) {
            return Remembered::Ended;
        }
        let fetched_ms = fetched_ts.min(now_ms);
        keys.valid_until_ts = keys.valid_until_ts.min(latest(fetched_ms));
        if keys.valid_until_ts < now_ms {
            return Remembered::Ended;
        }
        Remembered::Valid { keys, age: Duration::from_millis(now_ms - fetched_ms) }
    }

    /// Gives the history service what it may remember. Nothing depends on it.
    pub(super) async fn to_history(&self, answer: String) {
        let keys = StoredKeys { answer: answer.into(), fetched_ts: self.clock.now_ms() };
        if let Err(status) = self.history.put(keys).await {
            tracing::debug!(%status, "the history service takes no keys");
        }
    }

    /// What a server says of itself.
    pub(super) async fn server_keys(&self, server: &ServerName) -> Result<Obtained, NotObtained> {
        let answer = self.discovery.get(server, KEY_TARGET, MAX_ANSWER_BYTES).await?;
        self.check(server, &SignedObject::parse(&answer)?)
    }

    /// What a notary says of a server: of what it has signed, what has this key, and of that what
    /// is valid longest.
    pub(super) async fn notary_keys(
        &self,
        notary: &ServerName,
        notary_keys: &KeyAnswer,
        server: &ServerName,
        key_id: &str,
    ) -> Result<Obtained, NotObtained> {
        let criteria = json!({ "minimum_valid_until_ts": self.clock.now_ms() });
        let question = json!({ "server_keys": { server.as_str(): { key_id: criteria } } });
        let answer = self
            .discovery
            .post(notary, QUERY_TARGET, question.to_string().into_bytes(), MAX_NOTARY_BYTES)
            .await?;
        let answer = SignedObject::parse(&answer)?;
        let answers = answer.member("server_keys");
        let answers: Option<Vec<&RawValue>> =
            answers.and_then(|answers| serde_json::from_str(answers.get()).ok());
        let mut best: Option<Obtained> = None;
        let mut refused = NotObtained::NothingKnown;
        let rank =
            |it: &Obtained| (it.keys.verify_keys.contains_key(key_id), it.keys.valid_until_ts);
        for answer in answers.ok_or(AnswerFault::Member("server_keys"))? {
            let Ok(object) = SignedObject::from_text(answer.get()) else { continue };
            if object.string("server_name").as_deref() != Some(server.as_str()) {
                continue;
            }
            if !notary_keys.have_signed(&object) {
                refused = NotObtained::NotSigned;
                continue;
            }
            match self.check(server, &object) {
                Ok(obtained) if best.as_ref().is_none_or(|best| rank(best) < rank(&obtained)) => {
                    best = Some(obtained);
                }
                Ok(_not_better) => {}
                Err(fault) => refused = fault,
            }
        }
        best.ok_or(refused)
    }

    fn check(
        &self,
        server: &ServerName,
        answer: &SignedObject<'_>,
    ) -> Result<Obtained, NotObtained> {
        let mut keys = KeyAnswer::read_of(server.as_str(), answer)?;
        let now_ms = self.clock.now_ms();
        if keys.valid_until_ts < now_ms {
            return Err(NotObtained::Expired);
        }
        keys.valid_until_ts = keys.valid_until_ts.min(latest(now_ms));
        Ok(Obtained { keys, answer: answer.text().to_owned() })
    }
}

fn latest(fetched_ms: u64) -> u64 {
    let validity = u64::try_from(MAX_VALIDITY.as_millis()).unwrap_or(u64::MAX);
    fetched_ms.saturating_add(validity)
}

//! Where keys are fetched from: the history service, the server itself, notaries. Checks every answer,
//! and stores none.

use std::time::Duration;

use backscroll_matrix::{AnswerFault, KeyAnswer, SignedObject, SignedObjectError};
use serde_json::{json, value::RawValue};

use crate::{
    clock::Clock,
    discovery::{Discovery, Unreachable},
    history::{NoStoredKeys, StoredKeys, StoredKeysClient},
    server_name::ServerName,
};

/// Keys are used for this long after they were fetched at most, whatever the server says.
pub(super) const MAX_VALIDITY: Duration = Duration::from_hours(7 * 24);

/// How far the clock of the gateway that fetched keys may be ahead of ours, in milliseconds.
const MAX_SKEW_MS: u64 = 3_600_000;

const KEY_TARGET: &str = "/_matrix/key/v2/server";
const QUERY_TARGET: &str = "/_matrix/key/v2/query";
/// Largest answer of a server about its own keys. A usual one has 500 bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Largest answer of a notary, which is a list.
const MAX_NOTARY_BYTES: usize = 256 * 1024;

/// Fetches keys from all their sources.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) discovery: Discovery,
    pub(super) history: StoredKeysClient,
    pub(super) clock: Clock,
}

/// An answer about keys that are valid now.
#[derive(Debug)]
pub(super) struct FetchedAnswer {
    pub(super) keys: KeyAnswer,
    /// The text of the answer, unchanged.
    pub(super) text: String,
}

/// The keys of a server that the history service stores.
#[derive(Debug)]
pub(super) enum HistoryKeys {
    /// It stores none, or the call failed.
    Unknown,
    /// It has stored keys that are not valid any more.
    Expired,
    /// Valid keys, which were fetched `age` ago.
    Valid { keys: KeyAnswer, age: Duration },
}

/// Why no keys could be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
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
    #[error("the notary has no keys of the server")]
    NotKnown,
}

impl Sources {
    /// The keys that the history service stores.
    pub(super) async fn history_keys(&self, server: &ServerName) -> HistoryKeys {
        let StoredKeys { answer, fetched_ts } = match self.history.get(server.to_string()).await {
            Ok(stored) => stored,
            Err(NoStoredKeys::Expired) => return HistoryKeys::Expired,
            Err(NoStoredKeys::Unknown) => return HistoryKeys::Unknown,
            Err(NoStoredKeys::Failed(status)) => {
                tracing::debug!(%status, "cannot read keys from the history service");
                return HistoryKeys::Unknown;
            }
        };
        let keys = SignedObject::parse(&answer).map_err(AnswerFault::from);
        let keys = keys.and_then(|answer| KeyAnswer::read_of(server.as_str(), &answer));
        let Ok(mut keys) = keys else { return HistoryKeys::Expired };
        // The two clocks may differ a little: a time in the near future counts as now. With a
        // larger difference one clock is wrong, and the age of the keys is not known.
        let now_ms = self.clock.now_ms();
        if fetched_ts > now_ms.saturating_add(MAX_SKEW_MS) {
            return HistoryKeys::Expired;
        }
        let fetched_ms = fetched_ts.min(now_ms);
        keys.valid_until_ts = keys.valid_until_ts.min(latest_use(fetched_ms));
        if keys.valid_until_ts < now_ms {
            return HistoryKeys::Expired;
        }
        HistoryKeys::Valid { keys, age: Duration::from_millis(now_ms - fetched_ms) }
    }

    /// Stores keys in the history service, for other gateways. A failure has no consequences.
    pub(super) async fn put_into_history(&self, answer: String) {
        let keys = StoredKeys { answer: answer.into(), fetched_ts: self.clock.now_ms() };
        if let Err(status) = self.history.put(keys).await {
            tracing::debug!(%status, "cannot store keys in the history service");
        }
    }

    /// The keys of a server, from the server itself.
    pub(super) async fn server_keys(
        &self,
        server: &ServerName,
    ) -> Result<FetchedAnswer, FetchError> {
        let answer = self.discovery.get(server, KEY_TARGET, MAX_ANSWER_BYTES).await?;
        self.check(server, &SignedObject::parse(&answer)?)
    }

    /// The keys of a server, from a notary. Of the answers that the notary has signed, one with the
    /// wanted key is preferred, and of those the one that is valid longest.
    pub(super) async fn notary_keys(
        &self,
        notary: &ServerName,
        notary_keys: &KeyAnswer,
        server: &ServerName,
        key_id: &str,
    ) -> Result<FetchedAnswer, FetchError> {
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
        let mut best: Option<FetchedAnswer> = None;
        let mut last_fault = FetchError::NotKnown;
        let rank =
            |it: &FetchedAnswer| (it.keys.verify_keys.contains_key(key_id), it.keys.valid_until_ts);
        for answer in answers.ok_or(AnswerFault::Member("server_keys"))? {
            let Ok(object) = SignedObject::from_text(answer.get()) else { continue };
            if object.string("server_name").as_deref() != Some(server.as_str()) {
                continue;
            }
            if !notary_keys.have_signed(&object) {
                last_fault = FetchError::NotSigned;
                continue;
            }
            match self.check(server, &object) {
                Ok(fetched) if best.as_ref().is_none_or(|best| rank(best) < rank(&fetched)) => {
                    best = Some(fetched);
                }
                Ok(_not_better) => {}
                Err(fault) => last_fault = fault,
            }
        }
        best.ok_or(last_fault)
    }

    /// Checks an answer that must be about the keys of `server`.
    fn check(
        &self,
        server: &ServerName,
        answer: &SignedObject<'_>,
    ) -> Result<FetchedAnswer, FetchError> {
        let mut keys = KeyAnswer::read_of(server.as_str(), answer)?;
        let now_ms = self.clock.now_ms();
        if keys.valid_until_ts < now_ms {
            return Err(FetchError::Expired);
        }
        keys.valid_until_ts = keys.valid_until_ts.min(latest_use(now_ms));
        Ok(FetchedAnswer { keys, text: answer.text().to_owned() })
    }
}

/// The last moment at which keys fetched at this time may be used, in milliseconds since 1970.
fn latest_use(fetched_ms: u64) -> u64 {
    let validity = u64::try_from(MAX_VALIDITY.as_millis()).unwrap_or(u64::MAX);
    fetched_ms.saturating_add(validity)
}

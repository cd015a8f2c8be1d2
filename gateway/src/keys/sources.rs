//! Where keys come from when they are not in memory. Checks every answer; remembers none.

use std::time::Duration;

use ruma::CanonicalJsonValue;
use serde_json::json;
use tonic::Code;

use super::answer::{AnswerFault, ServerKeys, text};
use crate::{
    clock::Clock,
    discovery::{Discovery, Unreachable},
    history::RememberedKeys,
    json::{self, JsonError},
    server_name::ServerName,
};

/// Nobody is believed for longer than this from now.
const MAX_VALIDITY: Duration = Duration::from_hours(7 * 24);

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
    pub(super) history: RememberedKeys,
    pub(super) clock: Clock,
}

/// Keys that are valid now.
#[derive(Debug)]
pub(super) struct Obtained {
    pub(super) keys: ServerKeys,
    /// The answer that they stand in, as the history service wants it.
    pub(super) answer: String,
}

/// Why an answer is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotObtained {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error(transparent)]
    Json(#[from] JsonError),
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
    /// The keys that the history service holds. None when they are no longer valid, or when it
    /// does not say.
    pub(super) async fn history_keys(&self, server: &ServerName) -> Option<ServerKeys> {
        let answer = match self.history.get(server.to_string()).await {
            Ok(answer) => answer,
            Err(status) => {
                if status.code() != Code::NotFound {
                    tracing::debug!(%status, "the history service does not give keys");
                }
                return None;
            }
        };
        let keys = ServerKeys::read(server, &json::parse(&answer).ok()?).ok()?;
        // Nobody knows when it was fetched, so what says more than may be believed says nothing.
        let now_ms = self.clock.now_ms();
        let believable = (now_ms..=latest(now_ms)).contains(&keys.valid_until_ts);
        believable.then_some(keys)
    }

    /// Gives the history service what it may remember. Nothing depends on it.
    pub(super) async fn to_history(&self, answer: String) {
        if let Err(status) = self.history.put(answer.into()).await {
            tracing::debug!(%status, "the history service takes no keys");
        }
    }

    /// What a server says of itself.
    pub(super) async fn server_keys(&self, server: &ServerName) -> Result<Obtained, NotObtained> {
        let answer = self.discovery.get(server, KEY_TARGET, MAX_ANSWER_BYTES).await?;
        self.check(server, &json::parse(&answer)?)
    }

    /// What a notary says of a server: of what it has signed, what has this key, and of that what
    /// is valid longest.
    pub(super) async fn notary_keys(
        &self,
        (notary, notary_keys): (&ServerName, &ServerKeys),
        server: &ServerName,
        key_id: &str,
    ) -> Result<Obtained, NotObtained> {
        let criteria = json!({ "minimum_valid_until_ts": self.clock.now_ms() });
        let question = json!({ "server_keys": { server.as_str(): { key_id: criteria } } });
        let answer = self
            .discovery
            .post(notary, QUERY_TARGET, question.to_string().into_bytes(), MAX_NOTARY_BYTES)
            .await?;
        let answer = json::parse(&answer)?;
        let answers = answer
            .as_object()
            .and_then(|answer| answer.get("server_keys")?.as_array())
            .ok_or(AnswerFault::Member("server_keys"))?;
        let mut best: Option<Obtained> = None;
        let mut refused = NotObtained::NothingKnown;
        let rank =
            |it: &Obtained| (it.keys.verify_keys.contains_key(key_id), it.keys.valid_until_ts);
        for answer in answers {
            let Some(object) = answer.as_object() else { continue };
            if text(object, "server_name") != Some(server.as_str()) {
                continue;
            }
            if !notary_keys.have_signed(notary, object) {
                refused = NotObtained::NotSigned;
                continue;
            }
            match self.check(server, answer) {
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
        answer: &CanonicalJsonValue,
    ) -> Result<Obtained, NotObtained> {
        let mut keys = ServerKeys::read(server, answer)?;
        let now_ms = self.clock.now_ms();
        if keys.valid_until_ts < now_ms {
            return Err(NotObtained::Expired);
        }
        keys.valid_until_ts = keys.valid_until_ts.min(latest(now_ms));
        Ok(Obtained { keys, answer: answer.to_string() })
    }
}

fn latest(now_ms: u64) -> u64 {
    let validity = u64::try_from(MAX_VALIDITY.as_millis()).unwrap_or(u64::MAX);
    now_ms.saturating_add(validity)
}

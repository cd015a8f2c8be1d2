//! Keys that the operator has pinned. They are read and checked once, and never fetched.

use std::collections::BTreeMap;

use backscroll_matrix::{AnswerFault, KeyAnswer, SignedObject, SignedObjectError};

use super::NoKey;
use crate::server_name::ServerName;

/// Keys from a file: a JSON object from server name to that server's `/_matrix/key/v2/server`
/// response. Entries that cannot be used are left out, and reported.
#[derive(Clone, Debug, Default)]
pub struct PinnedKeys {
    /// `None`: the entry of this server cannot be used. Its keys are not fetched either, because the
    /// operator has pinned them.
    servers: BTreeMap<ServerName, Option<KeyAnswer>>,
    left_out: Vec<String>,
}

/// Why a file of pinned keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file is not a JSON object.
    #[error(transparent)]
    Json(#[from] SignedObjectError),
}

impl PinnedKeys {
    /// Reads the content of a file.
    ///
    /// # Errors
    /// When it is not a JSON object. Invalid entries are no error, but [left out](Self::left_out).
    pub fn from_json(bytes: &[u8]) -> Result<Self, KeysError> {
        let file = SignedObject::parse(bytes)?;
        let mut read = Self::default();
        for (name, answer) in file.members() {
            let server = match name.parse::<ServerName>() {
                Ok(server) => server,
                Err(fault) => {
                    read.left_out.push(format!("{name:?} is not a server name: {fault}"));
                    continue;
                }
            };
            let answer = SignedObject::from_text(answer.get()).map_err(AnswerFault::from);
            let keys = match answer.and_then(|answer| KeyAnswer::read_of(name, &answer)) {
                Ok(keys) => {
                    let named = keys.left_out.iter().map(|it| format!("keys of {server}: {it}"));
                    read.left_out.extend(named);
                    Some(keys)
                }
                Err(fault) => {
                    read.left_out.push(format!("keys of {server}: {fault}"));
                    None
                }
            };
            read.servers.insert(server, keys);
        }
        Ok(read)
    }

    /// What was left out, with the reasons, as texts for the operator.
    pub fn left_out(&self) -> impl Iterator<Item = &str> {
        self.left_out.iter().map(String::as_str)
    }

    /// The number of servers with pinned keys that can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.servers.values().flatten().count()
    }

    /// Whether there are no pinned keys that can be used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The servers whose pinned keys have expired.
    pub fn expired(&self, now_ms: u64) -> impl Iterator<Item = &ServerName> {
        self.servers.iter().filter_map(move |(name, keys)| {
            keys.as_ref().is_some_and(|keys| keys.valid_until_ts < now_ms).then_some(name)
        })
    }

    /// The pinned keys of a server. `None` if its keys are not pinned.
    pub(super) fn of(&self, server: &ServerName, now_ms: u64) -> Option<Result<&KeyAnswer, NoKey>> {
        let keys = self.servers.get(server)?;
        Some(match keys {
            None => Err(NoKey::Unusable),
            Some(keys) if keys.valid_until_ts < now_ms => Err(NoKey::Expired),
            Some(keys) => Ok(keys),
        })
    }
}

//! Keys that an operator has pinned: read once from a file, checked then. Never fetched.

use std::collections::BTreeMap;

use ruma::CanonicalJsonValue;

use super::{
    NoKey,
    answer::{AnswerFault, ServerKeys},
};
use crate::{
    json::{self, JsonError},
    server_name::{ServerName, ServerNameError},
};

/// Keys from a file: a JSON object from server name to that server's `/_matrix/key/v2/server`
/// answer. Every key in it has signed the answer it stands in.
#[derive(Clone, Debug, Default)]
pub struct PinnedKeys {
    servers: BTreeMap<ServerName, ServerKeys>,
}

/// Why a file of keys was not taken.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Not JSON, or not canonical.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Not an object from server name to key answer.
    #[error("not a JSON object of server names")]
    NotAnObject,
    /// A name that no server can have.
    #[error("{name:?} is no server name: {cause}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        cause: ServerNameError,
    },
    /// A server's answer is not what `/_matrix/key/v2/server` gives.
    #[error("keys of {server}: {fault}")]
    Answer {
        /// The server.
        server: ServerName,
        /// What is wrong with its answer.
        fault: AnswerFault,
    },
}

impl PinnedKeys {
    /// Reads a file's content.
    ///
    /// # Errors
    ///
    /// Anything in it that is not as it should be: one bad answer refuses the file.
    pub fn from_json(bytes: &[u8]) -> Result<Self, KeysError> {
        let CanonicalJsonValue::Object(answers) = json::parse(bytes)? else {
            return Err(KeysError::NotAnObject);
        };
        let servers = answers.into_iter().map(|(name, answer)| {
            let server = match name.parse::<ServerName>() {
                Ok(server) => server,
                Err(cause) => return Err(KeysError::Name { name, cause }),
            };
            match ServerKeys::read(&server, &answer) {
                Ok(keys) => Ok((server, keys)),
                Err(fault) => Err(KeysError::Answer { server, fault }),
            }
        });
        Ok(Self { servers: servers.collect::<Result<_, _>>()? })
    }

    /// How many servers' keys are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// The servers whose keys are no longer valid.
    pub fn expired(&self, now_ms: u64) -> impl Iterator<Item = &ServerName> {
        let expired = move |keys: &ServerKeys| keys.valid_until_ts < now_ms;
        self.servers.iter().filter_map(move |(name, keys)| expired(keys).then_some(name))
    }

    /// The keys to verify with what a server signs now. `None`: its keys are not pinned.
    pub(super) fn of(
        &self,
        server: &ServerName,
        now_ms: u64,
    ) -> Option<Result<&ServerKeys, NoKey>> {
        let keys = self.servers.get(server)?;
        Some(if keys.valid_until_ts < now_ms { Err(NoKey::Expired) } else { Ok(keys) })
    }
}

//! The keys of many servers, pinned by an operator in a file: each server's answer to
//! `/_matrix/key/v2/server`. Answers and keys that cannot be used are left out and named.

use std::collections::BTreeMap;

use backscroll_matrix::{AnswerFault, KeyAnswer, OldKey, SignedObject, SignedObjectError};

use super::signatures::ServerKey;

/// The keys of many servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRing {
    servers: BTreeMap<String, KeyAnswer>,
    left_out: Vec<String>,
}

impl KeyRing {
    /// Reads a JSON object: each member is the key answer of the server that it is named after.
    ///
    /// # Errors
    /// The bytes are not a JSON object. A part that is invalid is [left out](Self::left_out).
    pub fn parse(bytes: &[u8]) -> Result<Self, SignedObjectError> {
        let file = SignedObject::parse(bytes)?;
        let mut ring = Self::default();
        for (server, answer) in file.members() {
            let answer = SignedObject::from_text(answer.get()).map_err(AnswerFault::from);
            match answer.and_then(|answer| KeyAnswer::read_of(server, &answer)) {
                Ok(keys) => {
                    let named = keys.left_out.iter().map(|it| format!("keys of {server}: {it}"));
                    ring.left_out.extend(named);
                    ring.servers.insert(server.to_owned(), keys);
                }
                Err(fault) => ring.left_out.push(format!("keys of {server}: {fault}")),
            }
        }
        Ok(ring)
    }

    /// The key of a server by its id, in use or old, for
    /// [`verify_signatures`](super::verify_signatures). `None` if there is no such key.
    pub fn key(&self, server: &str, key_id: &str) -> Option<ServerKey> {
        let keys = self.servers.get(server)?;
        // A key that is listed as in use and as old counts as in use.
        if let Some(key) = keys.verify_keys.get(key_id) {
            return Some(ServerKey { key: *key, valid_until_ts: keys.valid_until_ts });
        }
        let OldKey { key, expired_ts } = *keys.old_verify_keys.get(key_id)?;
        Some(ServerKey { key, valid_until_ts: expired_ts })
    }

    /// The parts of the file that are not used, with the reasons, as texts for the operator.
    pub fn left_out(&self) -> impl Iterator<Item = &str> {
        self.left_out.iter().map(String::as_str)
    }

    /// The number of servers whose keys are held.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether the keys of no server are held.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }
}

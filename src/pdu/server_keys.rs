//! The keys of many servers, as an operator pins them in a file: each server's answer to
//! `/_matrix/key/v2/server`. What cannot be used is left out, and named.

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
    /// Reads an object of answers by server name.
    ///
    /// # Errors
    /// It is no JSON object. Whatever is wrong with a part of it is [left out](Self::left_out).
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

    /// The key of that server and id, in use or old, in the form in which
    /// [`verify_signatures`](super::verify_signatures) asks for it.
    pub fn key(&self, server: &str, key_id: &str) -> Option<ServerKey> {
        let keys = self.servers.get(server)?;
        // A key in use is in use, whatever is said of its past.
        if let Some(key) = keys.verify_keys.get(key_id) {
            return Some(ServerKey { key: *key, valid_until_ts: keys.valid_until_ts });
        }
        let OldKey { key, expired_ts } = *keys.old_verify_keys.get(key_id)?;
        Some(ServerKey { key, valid_until_ts: expired_ts })
    }

    /// What stands in the file and is not used, with the reasons, for people.
    pub fn left_out(&self) -> impl Iterator<Item = &str> {
        self.left_out.iter().map(String::as_str)
    }

    /// How many servers' keys are held.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether no keys are held.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }
}

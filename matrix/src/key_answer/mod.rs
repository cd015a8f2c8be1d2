//! The answer of a server to `/_matrix/key/v2/server`, checked.
//!
//! An answer is valid if at least one readable key that it lists as in use has signed it. Then all of
//! its keys are used, as in Synapse. Keys that cannot be read are left out.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::{
    KeyFault, SignedObject, SignedObjectError, VerifyKey, is_signing_key_id,
    signed_object::{has_signed, time},
};

/// The most keys of an answer that are used; each may have a signature to check.
const MAX_KEYS: usize = 128;

/// The keys of a server, from a valid answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAnswer {
    /// The server that the answer names.
    pub server_name: String,
    /// The end of the validity of the keys in use, in milliseconds since 1970.
    pub valid_until_ts: u64,
    /// The keys in use, by their ids. At least one of them has signed the answer.
    pub verify_keys: BTreeMap<String, VerifyKey>,
    /// The keys that were in use, by their ids.
    pub old_verify_keys: BTreeMap<String, OldKey>,
    /// The keys that are listed but not used.
    pub left_out: Vec<LeftOutKey>,
}

/// A key that is no longer in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldKey {
    /// The public key itself.
    pub key: VerifyKey,
    /// The time until which it was in use, in milliseconds since 1970.
    pub expired_ts: u64,
}

/// A key that an answer lists but that is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {key_id:?} {fault}")]
pub struct LeftOutKey {
    /// The id of the key.
    pub key_id: String,
    /// The reason why it is not used.
    pub fault: KeyFault,
}

/// The reason why an answer is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    /// The answer is not a JSON object that can be signed.
    #[error(transparent)]
    Json(#[from] SignedObjectError),
    /// A member is missing or has the wrong type.
    #[error("`{0}` is missing or malformed")]
    Member(&'static str),
    /// The answer names another server.
    #[error("`server_name` names another server")]
    OtherServer,
    /// The answer has no usable ed25519 key in `verify_keys`.
    #[error("no ed25519 key in `verify_keys` that can be used")]
    NoKey,
    /// No key that the answer lists has signed it.
    #[error("the answer is not signed by a key that it lists")]
    NotSigned,
}

impl KeyAnswer {
    /// Reads an answer and checks that it is signed by itself.
    ///
    /// # Errors
    /// The answer is invalid.
    pub fn parse(bytes: &[u8]) -> Result<Self, AnswerFault> {
        Self::read(&SignedObject::parse(bytes)?)
    }

    /// Reads an answer as [`read`](Self::read) does; it must be that of a given server.
    ///
    /// # Errors
    /// The answer is invalid, or it names another server.
    pub fn read_of(server: &str, answer: &SignedObject<'_>) -> Result<Self, AnswerFault> {
        let read = Self::read(answer)?;
        if read.server_name == server { Ok(read) } else { Err(AnswerFault::OtherServer) }
    }

    /// Reads an answer and checks that it is signed by itself.
    ///
    /// # Errors
    /// The answer is invalid.
    pub fn read(answer: &SignedObject<'_>) -> Result<Self, AnswerFault> {
        let server_name = answer.string("server_name").ok_or(AnswerFault::Member("server_name"))?;
        let valid_until_ts =
            answer.time("valid_until_ts").ok_or(AnswerFault::Member("valid_until_ts"))?;
        let listed = answer.object("verify_keys").ok_or(AnswerFault::Member("verify_keys"))?;
        let mut left_out = Vec::new();
        let in_use = split(listed, &mut left_out, verify_key);
        if in_use.values().all(VerifyKey::is_public_knowledge) {
            return Err(AnswerFault::NoKey);
        }
        let verify_keys = signers(answer, &server_name, in_use, &mut left_out)?;
        // An answer is valid without `old_verify_keys`, or if they are not an object.
        let old = answer.object("old_verify_keys").unwrap_or_default();
        let old_verify_keys = split(old, &mut left_out, old_key);
        Ok(Self { server_name, valid_until_ts, verify_keys, old_verify_keys, left_out })
    }

    /// Whether the server has signed an object with these keys: at least one signature verifies, and
    /// none of a known key fails.
    #[must_use]
    pub fn have_signed(&self, object: &SignedObject<'_>) -> bool {
        let Ok(text) = object.signed_text() else { return false };
        let signatures = object.signatures_of(&self.server_name);
        let mut known = signatures
            .iter()
            .filter_map(|(key_id, given)| Some((self.verify_keys.get(key_id)?, given)))
            .map(|(key, given)| has_signed(key, &text, given))
            .peekable();
        known.peek().is_some() && known.all(|fits| fits)
    }
}

/// Removes the keys in use whose signature on the answer does not verify. At least one key must have
/// signed.
fn signers(
    answer: &SignedObject<'_>,
    server_name: &str,
    mut in_use: BTreeMap<String, VerifyKey>,
    left_out: &mut Vec<LeftOutKey>,
) -> Result<BTreeMap<String, VerifyKey>, AnswerFault> {
    let text = answer.signed_text()?;
    let mut is_signed = false;
    for (key_id, given) in answer.signatures_of(server_name) {
        let Some(key) = in_use.get(&key_id) else { continue };
        // The key is kept: a signature by a published key is told apart from one by an unknown key.
        if key.is_public_knowledge() {
            continue;
        }
        if has_signed(key, &text, given) {
            is_signed = true;
        } else {
            in_use.remove(&key_id);
            left_out.push(LeftOutKey { key_id, fault: KeyFault::Signature });
        }
    }
    if is_signed { Ok(in_use) } else { Err(AnswerFault::NotSigned) }
}

/// Reads the listed keys. Keys that cannot be read are left out; those of other algorithms are ignored.
fn split<K>(
    listed: BTreeMap<String, &RawValue>,
    left_out: &mut Vec<LeftOutKey>,
    read: impl Fn(&RawValue) -> Result<K, KeyFault>,
) -> BTreeMap<String, K> {
    let mut keys = BTreeMap::new();
    for (key_id, entry) in listed.into_iter().filter(|(key_id, _)| is_signing_key_id(key_id)) {
        let key = if keys.len() < MAX_KEYS { read(entry) } else { Err(KeyFault::TooMany) };
        match key {
            Ok(key) => {
                keys.insert(key_id, key);
            }
            Err(fault) => left_out.push(LeftOutKey { key_id, fault }),
        }
    }
    keys
}

fn verify_key(entry: &RawValue) -> Result<VerifyKey, KeyFault> {
    let entry: BTreeMap<String, &RawValue> =
        serde_json::from_str(entry.get()).map_err(|_| KeyFault::Malformed)?;
    let text = entry.get("key").and_then(|text| serde_json::from_str::<String>(text.get()).ok());
    VerifyKey::read(&text.ok_or(KeyFault::Malformed)?)
}

fn old_key(entry: &RawValue) -> Result<OldKey, KeyFault> {
    let key = verify_key(entry)?;
    let entry: BTreeMap<String, &RawValue> =
        serde_json::from_str(entry.get()).map_err(|_| KeyFault::Malformed)?;
    let expired_ts = entry.get("expired_ts").and_then(|it| time(it)).ok_or(KeyFault::ExpiredTs)?;
    Ok(OldKey { key, expired_ts })
}

#[cfg(test)]
mod tests;

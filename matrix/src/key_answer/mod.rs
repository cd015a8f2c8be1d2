//! What a server answers to `/_matrix/key/v2/server`, checked.
//!
//! An answer counts if one key that it lists as in use, and that can be read, has signed it: then
//! all of its keys count, as in Synapse. What cannot be read is left out.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::{
    KeyFault, SignedObject, SignedObjectError, VerifyKey, is_signing_key_id,
    signed_object::{has_signed, time},
};

/// Further keys of an answer are left out: each may have a signature to check.
const MAX_KEYS: usize = 128;

/// The keys of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAnswer {
    /// Whose keys these are, as the answer has it.
    pub server_name: String,
    /// Until when the keys in use are valid, in milliseconds since 1970.
    pub valid_until_ts: u64,
    /// The keys in use, by their ids. One of them at least has signed the answer.
    pub verify_keys: BTreeMap<String, VerifyKey>,
    /// The keys that were in use, by their ids.
    pub old_verify_keys: BTreeMap<String, OldKey>,
    /// What is listed and not used.
    pub left_out: Vec<LeftOutKey>,
}

/// A key that is no longer in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldKey {
    /// The key.
    pub key: VerifyKey,
    /// Until when it was in use, in milliseconds since 1970.
    pub expired_ts: u64,
}

/// A key that is listed and not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {key_id:?} {fault}")]
pub struct LeftOutKey {
    /// Its id.
    pub key_id: String,
    /// What is wrong with it.
    pub fault: KeyFault,
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    /// Not a JSON object, or one that nobody can have signed.
    #[error(transparent)]
    Json(#[from] SignedObjectError),
    /// A member is missing or of another type.
    #[error("`{0}` is missing or malformed")]
    Member(&'static str),
    /// Another server's answer.
    #[error("`server_name` names another server")]
    OtherServer,
    /// No ed25519 key in `verify_keys` that can be used.
    #[error("no ed25519 key in `verify_keys` that can be used")]
    NoKey,
    /// No key that it lists has signed it.
    #[error("the answer is not signed by a key that it lists")]
    NotSigned,
}

impl KeyAnswer {
    /// Reads an answer and checks that it is signed by itself.
    ///
    /// # Errors
    /// It holds no keys of a server.
    pub fn parse(bytes: &[u8]) -> Result<Self, AnswerFault> {
        Self::read(&SignedObject::parse(bytes)?)
    }

    /// Reads the answer of this server.
    ///
    /// # Errors
    /// It holds no keys of this server.
    pub fn read_of(server: &str, answer: &SignedObject<'_>) -> Result<Self, AnswerFault> {
        let read = Self::read(answer)?;
        if read.server_name == server { Ok(read) } else { Err(AnswerFault::OtherServer) }
    }

    /// Reads an answer and checks that it is signed by itself.
    ///
    /// # Errors
    /// It holds no keys of a server.
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
        // An answer without old keys, or with something else in their place, is as good.
        let old = answer.object("old_verify_keys").unwrap_or_default();
        let old_verify_keys = split(old, &mut left_out, old_key);
        Ok(Self { server_name, valid_until_ts, verify_keys, old_verify_keys, left_out })
    }

    /// Whether these keys have signed an object, as this server: one at least, and none wrongly.
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

/// The keys in use, without those under whose id a signature stands that does not fit. One of them
/// must have signed.
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
        // Such a key stays, so that whatever it has signed can be told from what nobody knows.
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

/// The keys that can be read. Other algorithms than ours are passed over without a word.
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

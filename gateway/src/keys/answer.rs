//! What a server answers to `/_matrix/key/v2/server`, checked. Signed by every key it lists, or
//! it is none.
//!
//! `old_verify_keys` are left aside: they date events, they do not authenticate requests.

use std::collections::BTreeMap;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ed25519_dalek::{Signature, VerifyingKey};
use ruma::{CanonicalJsonObject, CanonicalJsonValue};

use crate::server_name::ServerName;

/// Matrix writes base64 without padding; padding is accepted.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// More keys than this are not looked at: each has a signature to check.
const MAX_KEYS: usize = 32;

/// The keys of a server.
#[derive(Clone, Debug)]
pub(super) struct ServerKeys {
    pub(super) valid_until_ts: u64,
    /// Decompressed, ready to verify with.
    pub(super) verify_keys: BTreeMap<String, VerifyingKey>,
}

/// What is wrong with a `/_matrix/key/v2/server` answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerFault {
    /// A member is missing or of another type.
    #[error("`{0}` is missing or malformed")]
    Member(&'static str),
    /// Another server's answer.
    #[error("`server_name` names another server")]
    OtherServer,
    /// No ed25519 key in `verify_keys`.
    #[error("no ed25519 key")]
    NoKey,
    /// An id or a key that is none.
    #[error("key {0:?} is malformed")]
    Key(String),
    /// More keys than any server has.
    #[error("more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// A key did not sign the answer.
    #[error("key {0:?} did not sign the answer")]
    Signature(String),
}

impl ServerKeys {
    /// Reads the answer of this server.
    pub(super) fn read(
        server: &ServerName,
        answer: &CanonicalJsonValue,
    ) -> Result<Self, AnswerFault> {
        let answer = answer.as_object().ok_or(AnswerFault::Member("server_name"))?;
        if text(answer, "server_name") != Some(server.as_str()) {
            return Err(AnswerFault::OtherServer);
        }
        let valid_until_ts = answer
            .get("valid_until_ts")
            .and_then(CanonicalJsonValue::as_integer)
            .and_then(|time| u64::try_from(i64::from(time)).ok())
            .ok_or(AnswerFault::Member("valid_until_ts"))?;
        let signatures = signatures(answer, server).ok_or(AnswerFault::Member("signatures"))?;
        let signed = signed_text(answer);

        let listed = answer.get("verify_keys").and_then(CanonicalJsonValue::as_object);
        let mut verify_keys = BTreeMap::new();
        for (key_id, entry) in listed.ok_or(AnswerFault::Member("verify_keys"))? {
            // Keys of algorithms still to be invented are nothing to stumble over.
            if !key_id.starts_with("ed25519:") {
                continue;
            }
            if verify_keys.len() == MAX_KEYS {
                return Err(AnswerFault::TooManyKeys);
            }
            let key = entry.as_object().and_then(|entry| text(entry, "key"));
            let key = key.and_then(verifying_key).filter(|_| is_key_id(key_id));
            let key = key.ok_or_else(|| AnswerFault::Key(key_id.clone()))?;
            text(signatures, key_id)
                .and_then(signature)
                .filter(|signature| key.verify_strict(signed.as_bytes(), signature).is_ok())
                .ok_or_else(|| AnswerFault::Signature(key_id.clone()))?;
            verify_keys.insert(key_id.clone(), key);
        }
        if verify_keys.is_empty() {
            return Err(AnswerFault::NoKey);
        }
        Ok(Self { valid_until_ts, verify_keys })
    }

    /// Whether these keys have signed an object, as this server: one at least, and none wrongly.
    pub(super) fn have_signed(&self, server: &ServerName, object: &CanonicalJsonObject) -> bool {
        let Some(signatures) = signatures(object, server) else { return false };
        let signed = signed_text(object);
        let mut known = signatures
            .iter()
            .filter_map(|(key_id, given)| Some((self.verify_keys.get(key_id)?, given)))
            .map(|(key, given)| {
                let signature = given.as_str().and_then(signature);
                signature.is_some_and(|it| key.verify_strict(signed.as_bytes(), &it).is_ok())
            })
            .peekable();
        known.peek().is_some() && known.all(|fits| fits)
    }
}

/// What a server has signed with its keys.
fn signatures<'a>(
    object: &'a CanonicalJsonObject,
    server: &ServerName,
) -> Option<&'a CanonicalJsonObject> {
    object.get("signatures")?.as_object()?.get(server.as_str())?.as_object()
}

/// The text that signatures cover.
fn signed_text(object: &CanonicalJsonObject) -> String {
    let mut object = object.clone();
    object.remove("signatures");
    object.remove("unsigned");
    CanonicalJsonValue::Object(object).to_string()
}

/// A signature from its base64.
pub(crate) fn signature(base64: &str) -> Option<Signature> {
    Signature::from_slice(&BASE64.decode(base64).ok()?).ok()
}

fn verifying_key(base64: &str) -> Option<VerifyingKey> {
    let bytes = BASE64.decode(base64).ok()?;
    VerifyingKey::from_bytes(bytes.as_slice().try_into().ok()?).ok()
}

/// `ed25519:` and at least one letter, digit or underscore.
fn is_key_id(key_id: &str) -> bool {
    key_id.strip_prefix("ed25519:").is_some_and(|version| {
        !version.is_empty()
            && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    })
}

pub(super) fn text<'a>(object: &'a CanonicalJsonObject, member: &str) -> Option<&'a str> {
    object.get(member).and_then(CanonicalJsonValue::as_str)
}

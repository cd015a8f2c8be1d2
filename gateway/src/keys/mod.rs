//! The keys that other servers sign their requests with. For now only pinned ones: read once
//! from a file, checked then, asked for later.
//!
//! `old_verify_keys` are left aside: they date events, they do not authenticate requests.

use std::collections::BTreeMap;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ed25519_dalek::{Signature, VerifyingKey};
use ruma::{CanonicalJsonObject, CanonicalJsonValue};

use crate::{
    json::{self, JsonError},
    server_name::{ServerName, ServerNameError},
};

/// Matrix writes base64 without padding; padding is accepted.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Keys from a file: a JSON object from server name to that server's `/_matrix/key/v2/server`
/// answer. Every key in it has signed the answer it stands in.
#[derive(Clone, Debug, Default)]
pub struct PinnedKeys {
    servers: BTreeMap<ServerName, ServerKeys>,
}

#[derive(Clone, Debug)]
struct ServerKeys {
    valid_until_ts: u64,
    verify_keys: BTreeMap<String, VerifyingKey>,
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
    /// A key did not sign the answer.
    #[error("key {0:?} did not sign the answer")]
    Signature(String),
}

/// Why there is no key to verify with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoKey {
    #[error("no keys of this server are known")]
    ServerUnknown,
    #[error("the keys of this server have expired")]
    Expired,
    #[error("this server has no such key")]
    KeyUnknown,
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
            match ServerKeys::read(&server, answer) {
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

    /// Whether nobody can be authenticated.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// The servers whose keys are no longer valid.
    pub fn expired(&self, now_ms: u64) -> impl Iterator<Item = &ServerName> {
        let expired = move |keys: &ServerKeys| keys.valid_until_ts < now_ms;
        self.servers.iter().filter_map(move |(name, keys)| expired(keys).then_some(name))
    }

    /// The key to verify a request with that was sent now.
    pub(crate) fn for_request(
        &self,
        server: &ServerName,
        key_id: &str,
        now_ms: u64,
    ) -> Result<&VerifyingKey, NoKey> {
        let keys = self.servers.get(server).ok_or(NoKey::ServerUnknown)?;
        if keys.valid_until_ts < now_ms {
            return Err(NoKey::Expired);
        }
        keys.verify_keys.get(key_id).ok_or(NoKey::KeyUnknown)
    }
}

impl ServerKeys {
    fn read(server: &ServerName, answer: CanonicalJsonValue) -> Result<Self, AnswerFault> {
        let CanonicalJsonValue::Object(mut answer) = answer else {
            return Err(AnswerFault::Member("server_name"));
        };
        if text(&answer, "server_name") != Some(server.as_str()) {
            return Err(AnswerFault::OtherServer);
        }
        let valid_until_ts = answer
            .get("valid_until_ts")
            .and_then(CanonicalJsonValue::as_integer)
            .and_then(|time| u64::try_from(i64::from(time)).ok())
            .ok_or(AnswerFault::Member("valid_until_ts"))?;
        let Some(CanonicalJsonValue::Object(signatures)) = answer.remove("signatures") else {
            return Err(AnswerFault::Member("signatures"));
        };
        let signatures = signatures.get(server.as_str()).and_then(CanonicalJsonValue::as_object);
        let signatures = signatures.ok_or(AnswerFault::Member("signatures"))?;
        answer.remove("unsigned");
        let signed = CanonicalJsonValue::Object(answer.clone()).to_string();

        let listed = answer.get("verify_keys").and_then(CanonicalJsonValue::as_object);
        let mut verify_keys = BTreeMap::new();
        for (key_id, entry) in listed.ok_or(AnswerFault::Member("verify_keys"))? {
            // Keys of algorithms still to be invented are nothing to stumble over.
            if !key_id.starts_with("ed25519:") {
                continue;
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

fn text<'a>(object: &'a CanonicalJsonObject, member: &str) -> Option<&'a str> {
    object.get(member).and_then(CanonicalJsonValue::as_str)
}

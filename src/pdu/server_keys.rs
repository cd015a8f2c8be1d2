//! The keys of servers, as their `/_matrix/key/v2/server` answers give them: pinned in a file,
//! never fetched from here. An answer counts only if a key it lists has signed it.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    serde::{Base64, base64::Standard},
};

use super::{
    error::PduError,
    ids::ServerName,
    json::{Json, string, trim},
    signatures::VerifyKey,
};

/// Why a text holds no keys of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not an object of canonical JSON.
    #[error(transparent)]
    Json(#[from] PduError),
    /// A member is missing or not what it has to be.
    #[error("{member} {why}")]
    Format {
        /// The member.
        member: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No key that the answer lists has signed it, or one has signed something else.
    #[error("the answer is not signed by the keys it lists")]
    NotSigned,
    /// The answer of a file is another server's than the file says, or wrong in itself.
    #[error("keys of {server}: {cause}")]
    Server {
        /// The server as the file names it.
        server: String,
        /// What is wrong.
        cause: Box<KeyError>,
    },
}

/// The keys of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerKeys {
    server_name: ServerName,
    valid_until_ts: i64,
    keys: BTreeMap<String, VerifyKey>,
}

impl ServerKeys {
    /// Reads an answer and checks that it is signed by itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        Self::read(&parse(bytes)?)
    }

    /// Whose keys these are.
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// Until when the keys in use are valid, in milliseconds since 1970.
    pub fn valid_until_ts(&self) -> i64 {
        self.valid_until_ts
    }

    /// The key of that id, in use or old.
    pub fn key(&self, key_id: &str) -> Option<&VerifyKey> {
        self.keys.get(key_id)
    }

    fn read(json: &Json) -> Result<Self, KeyError> {
        let object = &json.object;
        let server_name = string(object, "server_name")
            .and_then(|name| ServerName::parse(name).ok())
            .ok_or(format_error("server_name", "is missing or not a name"))?;
        let valid_until_ts = integer(object, "valid_until_ts")
            .ok_or(format_error("valid_until_ts", "is missing or not an integer"))?;
        let in_use = keys(object, "verify_keys", |_| Some(valid_until_ts))?
            .ok_or(format_error("verify_keys", "is missing"))?;
        let mut all =
            keys(object, "old_verify_keys", |key| integer(key, "expired_ts"))?.unwrap_or_default();
        check_signed(json, &server_name, &in_use)?;
        // A key in use is in use, whatever is said of its past.
        all.extend(in_use);
        Ok(Self { server_name, valid_until_ts, keys: all })
    }
}

/// The keys of many servers: the file an operator pins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRing(BTreeMap<ServerName, ServerKeys>);

impl KeyRing {
    /// Reads an object of answers by server name.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut ring = BTreeMap::new();
        for (name, answer) in parse(bytes)?.object {
            let keys = read_named(&name, answer)
                .map_err(|cause| KeyError::Server { server: name, cause: Box::new(cause) })?;
            ring.insert(keys.server_name.clone(), keys);
        }
        Ok(Self(ring))
    }

    /// The key of that server and id, in the form [`verify_signatures`](super::verify_signatures)
    /// asks for it.
    pub fn key(&self, server: &str, key_id: &str) -> Option<VerifyKey> {
        self.0.get(server)?.key(key_id).copied()
    }

    /// Whether keys of that server are held.
    pub fn has_server(&self, server: &str) -> bool {
        self.0.contains_key(server)
    }

    /// How many servers' keys are held.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no keys are held.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn parse(bytes: &[u8]) -> Result<Json, KeyError> {
    let text = str::from_utf8(trim(bytes)).map_err(|_| PduError::NotJson { line: 0, column: 0 })?;
    Ok(Json::parse(text, true)?.value)
}

fn read_named(name: &str, answer: CanonicalJsonValue) -> Result<ServerKeys, KeyError> {
    let CanonicalJsonValue::Object(mut object) = answer else {
        return Err(format_error("answer", "is not an object"));
    };
    object.remove("unsigned");
    let keys = ServerKeys::read(&Json { object, odd: BTreeMap::new() })?;
    if keys.server_name != name {
        return Err(format_error("server_name", "is another server's"));
    }
    Ok(keys)
}

/// The keys under `member`; other algorithms than ours are passed over.
fn keys(
    object: &CanonicalJsonObject,
    member: &'static str,
    valid_until: impl Fn(&CanonicalJsonObject) -> Option<i64>,
) -> Result<Option<BTreeMap<String, VerifyKey>>, KeyError> {
    let all = match object.get(member) {
        None => return Ok(None),
        Some(CanonicalJsonValue::Object(all)) => all,
        Some(_) => return Err(format_error(member, "is not an object")),
    };
    let mut read = BTreeMap::new();
    for (key_id, key) in all.iter().filter(|(key_id, _)| key_id.starts_with("ed25519:")) {
        let key = key
            .as_object()
            .and_then(|key| {
                let bytes = Base64::<Standard>::parse(string(key, "key")?).ok()?;
                VerifyKey::new(bytes.as_bytes(), valid_until(key)?)
            })
            .ok_or(format_error(member, "holds what is no key"))?;
        read.insert(key_id.clone(), key);
    }
    Ok(Some(read))
}

/// One key in use must have signed, and none may have signed something else.
fn check_signed(
    json: &Json,
    server_name: &ServerName,
    in_use: &BTreeMap<String, VerifyKey>,
) -> Result<(), KeyError> {
    let text = json.signed_text();
    let signatures = json
        .object
        .get("signatures")
        .and_then(|all| all.as_object()?.get(server_name.as_str())?.as_object())
        .ok_or(KeyError::NotSigned)?;
    let mut is_signed = false;
    for (key_id, key) in in_use {
        if let Some(signature) = signatures.get(key_id) {
            if !signature.as_str().is_some_and(|it| key.verifies(&text, it)) {
                return Err(KeyError::NotSigned);
            }
            is_signed = true;
        }
    }
    if is_signed { Ok(()) } else { Err(KeyError::NotSigned) }
}

fn integer(object: &CanonicalJsonObject, name: &str) -> Option<i64> {
    object.get(name).and_then(CanonicalJsonValue::as_integer).map(i64::from)
}

fn format_error(member: &'static str, why: &'static str) -> KeyError {
    KeyError::Format { member, why }
}

//! Another server. It signs with code of its own, not with the gateway's.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use super::{NOW_MS, US};

#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) key_id: String,
    pub(crate) key: SigningKey,
}

impl Peer {
    pub(crate) fn new(name: &str, seed: u8) -> Self {
        let key = SigningKey::from_bytes(&[seed; 32]);
        Self { name: name.to_owned(), key_id: format!("ed25519:k{seed}"), key }
    }

    /// Its response to `/_matrix/key/v2/server`.
    pub(crate) fn key_answer(&self) -> Value {
        self.key_answer_until(NOW_MS)
    }

    pub(crate) fn key_answer_until(&self, valid_until_ts: u64) -> Value {
        self.sign(json!({
            "server_name": self.name,
            "valid_until_ts": valid_until_ts,
            "verify_keys": { &self.key_id: { "key": self.public_key() } },
            "old_verify_keys": {},
        }))
    }

    pub(crate) fn public_key(&self) -> String {
        STANDARD_NO_PAD.encode(self.key.verifying_key().as_bytes())
    }

    /// Adds its signature to an object of integers and ASCII texts.
    pub(crate) fn sign(&self, mut object: Value) -> Value {
        let signature = self.signature(&object);
        object["signatures"][&self.name][&self.key_id] = signature.into();
        object
    }

    /// Its signature in base64. serde_json serializes objects sorted and without spaces.
    pub(crate) fn signature(&self, object: &Value) -> String {
        let mut object = object.clone();
        object.as_object_mut().unwrap().remove("signatures");
        STANDARD_NO_PAD.encode(self.key.sign(object.to_string().as_bytes()).to_bytes())
    }

    /// The signature of a request to the gateway.
    pub(crate) fn sig(&self, method: &str, uri: &str, content: Option<Value>) -> String {
        let mut object = json!({
            "method": method, "uri": uri, "origin": self.name, "destination": US,
        });
        if let Some(content) = content {
            object["content"] = content;
        }
        self.signature(&object)
    }

    /// An Authorization header with this signature, in the usual form.
    pub(crate) fn header(&self, sig: &str) -> String {
        let Self { name, key_id, .. } = self;
        format!(r#"X-Matrix origin="{name}",destination="{US}",key="{key_id}",sig="{sig}""#)
    }
}

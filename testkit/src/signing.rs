//! Signatures of test servers: key answers and signed events.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, RoomVersionId,
    canonical_json::{redact, to_canonical_value},
};
use serde_json::{Value, json};

/// The identity of one test server.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The server's name.
    pub server_name: String,
    /// The id of its key, such as `ed25519:1`.
    pub key_id: String,
    /// Its private key.
    pub key: SigningKey,
}

impl Signer {
    /// Signs a text; the signature as unpadded base64.
    pub fn sign(&self, text: &str) -> String {
        STANDARD_NO_PAD.encode(self.key.sign(text.as_bytes()).to_bytes())
    }

    /// The server's answer to `/_matrix/key/v2/server`, signed by itself.
    ///
    /// <https://spec.matrix.org/v1.16/server-server-api/#get_matrixkeyv2server>
    pub fn key_answer(&self) -> Value {
        let key = STANDARD_NO_PAD.encode(self.key.verifying_key().as_bytes());
        let mut answer = json!({
            "server_name": self.server_name,
            "valid_until_ts": 9_000_000_000_000_u64,
            "verify_keys": {&self.key_id: {"key": key}},
            "old_verify_keys": {},
        });
        let canonical = to_canonical_value(answer.clone()).expect("every number is an integer");
        let signature = self.sign(&canonical.to_string());
        answer["signatures"] = json!({&self.server_name: {&self.key_id: signature}});
        answer
    }

    /// Signs an event as the sender's server does, in place of all signatures it had.
    ///
    /// <https://spec.matrix.org/v1.16/server-server-api/#signing-events>
    pub fn sign_event(&self, pdu: &str, version: &RoomVersionId) -> String {
        let event: Value = serde_json::from_str(pdu).expect("an event is JSON");
        let Ok(CanonicalJsonValue::Object(mut event)) = to_canonical_value(event) else {
            panic!("an event is a canonical JSON object: {pdu}")
        };
        let rules = version.rules().expect("ruma knows the version");
        let mut signed: CanonicalJsonObject =
            redact(event.clone(), &rules.redaction, None).expect("the event has a type");
        signed.remove("signatures");
        signed.remove("unsigned");
        let signature = self.sign(&CanonicalJsonValue::Object(signed).to_string());
        let signatures = json!({&self.server_name: {&self.key_id: signature}});
        let signatures = to_canonical_value(signatures).expect("it has no number");
        event.insert("signatures".to_owned(), signatures);
        CanonicalJsonValue::Object(event).to_string()
    }
}

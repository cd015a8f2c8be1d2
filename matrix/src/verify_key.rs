//! The public keys of servers, and checking signatures with them.

pub use ed25519_dalek::Signature;
use ed25519_dalek::VerifyingKey;

use crate::base64;

/// The prefix of the ids of supported keys. Any text may follow: mautrix-go makes ids of base64 with
/// `+`, `/` and `=`, others use `-`, `.` and `_`.
const ED25519: &str = "ed25519:";

/// Keys whose private half was published: their signatures prove nothing.
const PUBLIC_KNOWLEDGE: [[u8; 32]; 1] = [
    // GHSA-qwcj-h6m8-vp6q, ELEMENTSEC-2025-1670, CVE-2026-24044: Helm charts made the keys of all
    // servers from the same seed. l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og
    [
        0x97, 0xf3, 0xbd, 0x87, 0x13, 0x15, 0x28, 0x1e, 0x8b, 0x83, 0xed, 0xc7, 0xa9, 0xfd, 0x05,
        0x41, 0x06, 0x61, 0x54, 0x44, 0x90, 0x70, 0xcc, 0xdb, 0x3c, 0xdd, 0x42, 0xcf, 0x69, 0xcc,
        0xde, 0x88,
    ],
];

/// A public key of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyKey {
    key: VerifyingKey,
    is_public_knowledge: bool,
}

/// The reason why a key is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// The text is not 32 bytes in base64, or not a point of the curve.
    #[error("is not an ed25519 key in base64")]
    Malformed,
    /// Anybody can make signatures that verify with this key.
    #[error("is a weak key")]
    Weak,
    /// The private half of the key was published.
    #[error("is a key whose private half everybody knows (GHSA-qwcj-h6m8-vp6q)")]
    PublicKnowledge,
    /// The answer that lists the key has a signature under its id that does not verify.
    #[error("has not made the signature under its id")]
    Signature,
    /// The key is no longer in use, and the time since when is missing.
    #[error("has no `expired_ts`")]
    ExpiredTs,
    /// The answer lists more keys than are looked at.
    #[error("is one too many")]
    TooMany,
}

/// Whether an id is that of a supported key: `ed25519:` and any text.
#[must_use]
pub fn is_signing_key_id(key_id: &str) -> bool {
    key_id.starts_with(ED25519)
}

/// Reads a signature from base64. `None` if it is not one.
#[must_use]
pub fn signature(text: &str) -> Option<Signature> {
    Signature::from_slice(&base64::decode(text)?).ok()
}

impl VerifyKey {
    /// Reads a key from its base64.
    ///
    /// # Errors
    /// The text is not a key, or the key is weak. A key whose private half was published is read.
    pub fn read(text: &str) -> Result<Self, KeyFault> {
        let bytes = base64::decode(text).ok_or(KeyFault::Malformed)?;
        let bytes = bytes.as_slice().try_into().map_err(|_| KeyFault::Malformed)?;
        Self::from_bytes(bytes)
    }

    /// Reads a key from its bytes.
    ///
    /// # Errors
    /// The bytes are not a key, or the key is weak.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyFault> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeyFault::Malformed)?;
        if key.is_weak() {
            return Err(KeyFault::Weak);
        }
        Ok(Self { key, is_public_knowledge: PUBLIC_KNOWLEDGE.contains(bytes) })
    }

    /// Whether the private half was published. Such a key verifies nothing.
    #[must_use]
    pub fn is_public_knowledge(&self) -> bool {
        self.is_public_knowledge
    }

    /// Whether a signature of these bytes was made with this key. Strict: no second form of the same
    /// signature is accepted.
    #[must_use]
    pub fn verifies(&self, signed: &[u8], signature: &Signature) -> bool {
        !self.is_public_knowledge && self.key.verify_strict(signed, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    #[test]
    fn the_key_that_everybody_knows_verifies_nothing() {
        let known = VerifyKey::read("l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og=").unwrap();
        assert!(known.is_public_knowledge());
        assert_eq!(VerifyKey::read("l_O9hxMVKB6Lg-3Hqf0FQQZhVESQcMzbPN1Cz2nM3og"), Ok(known));
        let key = SigningKey::from_bytes(&[1; 32]);
        let mut verify = VerifyKey::from_bytes(key.verifying_key().as_bytes()).unwrap();
        let made = key.sign(b"text");
        assert!(verify.verifies(b"text", &made));
        assert!(!verify.verifies(b"texts", &made));
        verify.is_public_knowledge = true;
        assert!(!verify.verifies(b"text", &made));
    }

    #[test]
    fn what_is_no_key() {
        assert_eq!(VerifyKey::read("AAAA"), Err(KeyFault::Malformed));
        assert_eq!(VerifyKey::read("!"), Err(KeyFault::Malformed));
        assert_eq!(VerifyKey::from_bytes(&[0; 32]), Err(KeyFault::Weak));
        assert!(signature("AAAA").is_none());
        for (id, is_one) in
            [("ed25519:a-b+c./=_", true), ("ed25519:", true), ("rsa:1", false), ("ed25519", false)]
        {
            assert_eq!(is_signing_key_id(id), is_one, "{id}");
        }
    }
}

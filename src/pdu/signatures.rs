//! Checks the signatures of an event: which servers must have signed it, and whether they have.
//!
//! A signature by a key that is not known, or that was not valid at the time that the event claims,
//! is ignored. A signature by a known key that does not verify makes the event invalid, even if
//! others do verify.

use std::collections::BTreeSet;

use backscroll_matrix::{VerifyKey, is_signing_key_id, signature};
use ruma::{CanonicalJsonObject, CanonicalJsonValue};

use super::{
    event::Pdu,
    ids::{OpaqueServerName, UserId},
    json::string,
};

/// The key id of policy servers. Their signatures do not stand for a homeserver and are ignored.
const POLICY_SERVER_KEY: &str = "ed25519:policy_server";

/// A key that a server signs with, and the end of its validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerKey {
    /// The public key itself.
    pub key: VerifyKey,
    /// `valid_until_ts` of a key in use, `expired_ts` of an old one, in milliseconds since 1970.
    pub valid_until_ts: u64,
}

impl ServerKey {
    /// Whether the key was valid at a time, in milliseconds since 1970.
    fn is_valid_at(&self, time: i64) -> bool {
        !u64::try_from(time).is_ok_and(|time| time > self.valid_until_ts)
    }

    /// Whether `given`, a signature in base64, is this key's signature for `text`.
    pub fn verifies(&self, text: &str, given: &str) -> bool {
        signature(given).is_some_and(|given| self.key.verifies(text.as_bytes(), &given))
    }
}

/// The result of checking the signatures of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureCheck {
    /// Every server that must have signed has signed, with a known key.
    Valid,
    /// A server has signed, but with no known key. This is not a failure: fetch its keys and check
    /// again.
    Unknown {
        /// The first such server, in order of their names.
        server: OpaqueServerName,
    },
    /// The event is forged or incomplete.
    Invalid {
        /// The server whose signature is missing or bad.
        server: OpaqueServerName,
        /// The fault of the signature.
        reason: BadSignature,
    },
}

/// The fault of the signatures of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// The server must have signed and has not.
    #[error("a signature that is required is missing")]
    Missing,
    /// The signature by a known key does not verify.
    #[error("the signature by key {key_id} does not fit")]
    Forged {
        /// The id of the key.
        key_id: String,
    },
    /// The signature proves nothing: the private half of the key was published.
    #[error("everybody knows the private half of key {key_id} (GHSA-qwcj-h6m8-vp6q)")]
    PublicKnowledge {
        /// The id of the key.
        key_id: String,
    },
    /// The event does not name a server that must sign it.
    #[error("the event does not name the server that has to sign it")]
    NoServer,
}

/// Checks the signatures of all servers that must have signed an event. `keys` looks up a key by
/// server and key id. From room version 5 on, a key must have been valid when the event was made.
pub fn verify_signatures(
    pdu: &Pdu,
    keys: &dyn Fn(&str, &str) -> Option<ServerKey>,
) -> SignatureCheck {
    let invalid = |server, reason| SignatureCheck::Invalid { server, reason };
    let servers = match required_servers(pdu) {
        Ok(servers) => servers,
        Err(reason) => return invalid(pdu.sender_server(), reason),
    };
    let Ok(text) = pdu.signed_text() else {
        return invalid(pdu.sender_server(), BadSignature::NoServer);
    };
    let mut unknown = None;
    for server in servers {
        match check_server(pdu, &server, &text, keys) {
            Ok(true) => {}
            Ok(false) => unknown = unknown.or(Some(server)),
            Err(reason) => return invalid(server, reason),
        }
    }
    unknown.map_or(SignatureCheck::Valid, |server| SignatureCheck::Unknown { server })
}

/// The servers that must have signed an event: the server of the sender; in room versions 1 and 2
/// the server in the event id; from version 8 on the server of the user who authorised a restricted
/// join.
///
/// ruma has this function too, but accepts ids only in their current grammar.
///
/// # Errors
/// The event does not name one of these servers.
pub fn required_servers(pdu: &Pdu) -> Result<BTreeSet<OpaqueServerName>, BadSignature> {
    let rules = &pdu.room_version().rules().signatures;
    let mut servers = BTreeSet::new();
    // An invitation by e-mail is made by the server of the invited user, not by that of the sender.
    let by_third_party = pdu.membership() == Some("invite")
        && pdu.content().get("third_party_invite").is_some_and(CanonicalJsonValue::is_object);
    if !by_third_party {
        servers.insert(pdu.sender_server());
    }
    if rules.check_event_id_server {
        servers.insert(pdu.event_id().server_name().ok_or(BadSignature::NoServer)?);
    }
    if rules.check_join_authorised_via_users_server && pdu.membership() == Some("join") {
        const AUTHORISER: &str = "join_authorised_via_users_server";
        if pdu.content().contains_key(AUTHORISER) {
            let user = string(pdu.content(), AUTHORISER).and_then(|it| UserId::parse(it).ok());
            servers.insert(user.ok_or(BadSignature::NoServer)?.server_name());
        }
    }
    Ok(servers)
}

/// Whether a server has signed with a known key that was valid. Fails if it has not signed, or badly.
fn check_server(
    pdu: &Pdu,
    server: &OpaqueServerName,
    text: &str,
    keys: &dyn Fn(&str, &str) -> Option<ServerKey>,
) -> Result<bool, BadSignature> {
    let enforce = pdu.room_version().rules().enforce_key_validity;
    let mut is_signed = false;
    let mut is_valid = false;
    for (key_id, signature) in signatures_of(pdu, server) {
        is_signed = true;
        let Some(key) = keys(server.as_str(), key_id) else {
            continue;
        };
        if key.key.is_public_knowledge() {
            return Err(BadSignature::PublicKnowledge { key_id: key_id.clone() });
        }
        if enforce && !key.is_valid_at(pdu.origin_server_ts()) {
            continue;
        }
        if !signature.as_str().is_some_and(|it| key.verifies(text, it)) {
            return Err(BadSignature::Forged { key_id: key_id.clone() });
        }
        is_valid = true;
    }
    if is_signed { Ok(is_valid) } else { Err(BadSignature::Missing) }
}

/// The ed25519 signatures of a server, by key id.
fn signatures_of<'p>(
    pdu: &'p Pdu,
    server: &OpaqueServerName,
) -> impl Iterator<Item = (&'p String, &'p CanonicalJsonValue)> {
    pdu.signatures()
        .and_then(|all| all.get(server.as_str()))
        .and_then(CanonicalJsonValue::as_object)
        .into_iter()
        .flat_map(CanonicalJsonObject::iter)
        .filter(|(key_id, _)| is_signing_key_id(key_id) && *key_id != POLICY_SERVER_KEY)
}

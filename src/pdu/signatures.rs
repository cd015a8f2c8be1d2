//! Whose signatures an event needs, and whether they are good.
//!
//! A signature by a key that is not known, or not valid at the time the event claims, says nothing
//! either way. A signature by a known key that does not fit is a forgery, however many good ones
//! stand beside it.

use std::collections::BTreeSet;

use backscroll_matrix::{VerifyKey, is_signing_key_id, signature};
use ruma::{CanonicalJsonObject, CanonicalJsonValue};

use super::{
    event::Pdu,
    ids::{ServerName, UserId},
    json::string,
};

/// Not a key of a homeserver: its signatures mean something else, and are not looked at here.
const POLICY_SERVER_KEY: &str = "ed25519:policy_server";

/// A key a server signs with, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerKey {
    /// The key.
    pub key: VerifyKey,
    /// `valid_until_ts` of a key in use, `expired_ts` of an old one, in milliseconds since 1970.
    pub valid_until_ts: u64,
}

impl ServerKey {
    /// Whether the key was valid at that time, in milliseconds since 1970.
    fn is_valid_at(&self, time: i64) -> bool {
        !u64::try_from(time).is_ok_and(|time| time > self.valid_until_ts)
    }

    /// Whether `given`, in base64, is this key's signature for `text`.
    pub fn verifies(&self, text: &str, given: &str) -> bool {
        signature(given).is_some_and(|given| self.key.verifies(text.as_bytes(), &given))
    }
}

/// What an event's signatures say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureCheck {
    /// Every server that had to sign did, with a known key.
    Valid,
    /// This server did sign, but with no key that is known. Not a failure: fetch keys and ask
    /// again.
    Unknown {
        /// The first such server by name.
        server: ServerName,
    },
    /// The event is not what it claims to be.
    Invalid {
        /// The server whose signature is at fault.
        server: ServerName,
        /// The fault.
        reason: BadSignature,
    },
}

/// What is wrong with the signatures of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// The server had to sign and did not.
    #[error("a signature that is required is missing")]
    Missing,
    /// The signature by this key, which is known, does not fit the event.
    #[error("the signature by key {key_id} does not fit")]
    Forged {
        /// The key.
        key_id: String,
    },
    /// The signature by this key proves nothing: its private half is known to everybody.
    #[error("everybody knows the private half of key {key_id} (GHSA-qwcj-h6m8-vp6q)")]
    PublicKnowledge {
        /// The key.
        key_id: String,
    },
    /// The event names no server that could sign it.
    #[error("the event does not name the server that has to sign it")]
    NoServer,
}

/// Checks the signatures of all servers that have to sign. `keys` gives the key of a server by
/// key id; whether the key was valid when the event was made is checked here, from room version 5
/// on as the rules demand.
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

/// The servers that have to sign: the sender's, in room versions 1 and 2 that of the event id, and
/// from version 8 on that of the user who let a restricted join in.
///
/// ruma has this function too, but wants every id in a form of today.
pub fn required_servers(pdu: &Pdu) -> Result<BTreeSet<ServerName>, BadSignature> {
    let rules = &pdu.room_version().rules().signatures;
    let mut servers = BTreeSet::new();
    // An invitation by e-mail is made by the server of the invited, in the name of the inviter.
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

/// Whether a key that is known has signed.
fn check_server(
    pdu: &Pdu,
    server: &ServerName,
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

/// The signatures of a server in the algorithm we know.
fn signatures_of<'p>(
    pdu: &'p Pdu,
    server: &ServerName,
) -> impl Iterator<Item = (&'p String, &'p CanonicalJsonValue)> {
    pdu.signatures()
        .and_then(|all| all.get(server.as_str()))
        .and_then(CanonicalJsonValue::as_object)
        .into_iter()
        .flat_map(CanonicalJsonObject::iter)
        .filter(|(key_id, _)| is_signing_key_id(key_id) && *key_id != POLICY_SERVER_KEY)
}

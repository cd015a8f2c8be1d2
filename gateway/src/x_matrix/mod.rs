//! Authenticates requests. The server that sends a request signs it: the signature covers the
//! method, the request target exactly as it was sent, the names of both servers, and the content.
//!
//! A request is authenticated only if it has at least one signature whose key is known, and if every
//! such signature is valid. The destination that must have been signed is always our own name,
//! whatever the header says.
//! <https://spec.matrix.org/v1.16/server-server-api/#request-authentication>

pub(crate) mod header;

use axum::http::{HeaderMap, Method, header::AUTHORIZATION};
use backscroll_matrix::{Signature, VerifyKey};
use futures_util::future::join_all;
use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use serde::Serialize;

use self::header::{Credentials, Malformed};
use crate::{
    client_address::ClientAddress,
    keys::{Keys, NoKey},
    server_name::ServerName,
};

/// Most X-Matrix headers of a request. Servers send one for each key they sign with.
const MAX_HEADERS: usize = 8;

/// What the X-Matrix headers of a request claim: who has sent it, and with which signatures. Nothing
/// of it is verified yet.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) origin: ServerName,
    credentials: Vec<Credentials>,
}

/// What the signatures of a request must cover, besides its origin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignedRequest<'a> {
    /// The name of our homeserver.
    pub(crate) destination: &'a ServerName,
    pub(crate) method: &'a Method,
    /// Path and query, exactly as they were sent.
    pub(crate) target: &'a str,
    pub(crate) content: &'a Content,
}

/// The content that may have been signed.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// The request has no body.
    Absent,
    /// The body is empty, although there should be one. Synapse then signs no content, Tuwunel signs
    /// `{}`.
    Empty,
    /// The body, parsed as JSON.
    Json(CanonicalJsonValue),
}

/// Why a request is not authenticated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unauthenticated {
    #[error("no X-Matrix Authorization header")]
    NoHeader,
    #[error("more than {MAX_HEADERS} X-Matrix Authorization headers")]
    TooManyHeaders,
    #[error("malformed X-Matrix Authorization header: {0}")]
    Malformed(#[from] Malformed),
    #[error("the X-Matrix Authorization headers name different origins")]
    Origins,
    #[error("the request is meant for another server; this is {0}")]
    Destination(ServerName),
    #[error("cannot verify a signature of {origin}: {cause}")]
    NoKey { origin: ServerName, cause: NoKey },
    #[error("the signature of {0} does not match the request")]
    Signature(ServerName),
    #[error(
        "{0} signs with a key whose private half is public knowledge: it must make another \
         (GHSA-qwcj-h6m8-vp6q)"
    )]
    PublicKnowledge(ServerName),
}

/// The object that is signed. Serialized, it is canonical JSON: its members are sorted by name.
#[derive(Serialize)]
struct SignedRequestObject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a CanonicalJsonValue>,
    destination: &'a str,
    method: &'a str,
    origin: &'a str,
    uri: &'a str,
}

/// A signature, and the key to verify it with.
struct KnownSignature {
    key: VerifyKey,
    signature: Signature,
}

impl Claim {
    /// Reads all X-Matrix headers, which must agree on the origin and name `destination`.
    pub(crate) fn read(
        headers: &HeaderMap,
        destination: &ServerName,
    ) -> Result<Self, Unauthenticated> {
        let mut claim: Option<Self> = None;
        for header in headers.get_all(AUTHORIZATION) {
            let Some(credentials) = header::parse(header.as_bytes()) else { continue };
            let credentials = credentials?;
            let claim = claim.get_or_insert_with(|| Self {
                origin: credentials.origin.clone(),
                credentials: Vec::new(),
            });
            if claim.credentials.len() == MAX_HEADERS {
                return Err(Unauthenticated::TooManyHeaders);
            }
            // Servers older than version 1.3 of the specification send no destination.
            if credentials.destination.as_deref().is_some_and(|to| to != destination.as_str()) {
                return Err(Unauthenticated::Destination(destination.clone()));
            }
            if claim.origin != credentials.origin {
                return Err(Unauthenticated::Origins);
            }
            claim.credentials.push(credentials);
        }
        claim.ok_or(Unauthenticated::NoHeader)
    }

    /// Verifies the signatures. Keys that are not known yet are fetched on behalf of the client.
    pub(crate) async fn verify(
        &self,
        request: SignedRequest<'_>,
        keys: &Keys,
        client: ClientAddress,
    ) -> Result<(), Unauthenticated> {
        let signatures = self.known_signatures(keys, client).await?;
        if signatures.iter().any(|it| it.key.is_public_knowledge()) {
            return Err(Unauthenticated::PublicKnowledge(self.origin.clone()));
        }
        let verify = |content| {
            let signed = self.signed_bytes(request, content);
            if signatures.iter().all(|it| it.key.verifies(&signed, &it.signature)) {
                Ok(())
            } else {
                Err(Unauthenticated::Signature(self.origin.clone()))
            }
        };
        match request.content {
            Content::Absent => verify(None),
            Content::Json(value) => verify(Some(value)),
            Content::Empty => {
                let braces = CanonicalJsonValue::Object(CanonicalJsonObject::new());
                verify(None).or_else(|_| verify(Some(&braces)))
            }
        }
    }

    fn signed_bytes(
        &self,
        request: SignedRequest<'_>,
        content: Option<&CanonicalJsonValue>,
    ) -> Vec<u8> {
        let signed = SignedRequestObject {
            content,
            destination: request.destination.as_str(),
            method: request.method.as_str(),
            origin: self.origin.as_str(),
            uri: request.target,
        };
        serde_json::to_vec(&signed).expect("text and canonical JSON can always be serialized")
    }

    /// The signatures whose key is known; at least one.
    async fn known_signatures(
        &self,
        keys: &Keys,
        client: ClientAddress,
    ) -> Result<Vec<KnownSignature>, Unauthenticated> {
        let mut known = Vec::new();
        let mut last_cause = None;
        // All keys are waited for at the same time.
        let lookups =
            self.credentials.iter().map(|it| keys.for_request(&self.origin, &it.key_id, client));
        for (key, credentials) in join_all(lookups).await.into_iter().zip(&self.credentials) {
            match key {
                Ok(key) => known.push(KnownSignature { key, signature: credentials.signature }),
                Err(cause) => last_cause = Some(cause),
            }
        }
        match last_cause {
            Some(cause) if known.is_empty() => {
                Err(Unauthenticated::NoKey { origin: self.origin.clone(), cause })
            }
            _ => Ok(known),
        }
    }
}

//! Who asks? A request is signed by the server that sends it: the signature covers the method,
//! the request target exactly as it was sent, both servers' names and the content.
//!
//! Fails closed: every signature whose key is known must be right, and there must be one. The
//! destination that was signed is always our own name, whatever the header says.
//! <https://spec.matrix.org/v1.16/server-server-api/#request-authentication>

pub(crate) mod header;

use axum::http::{HeaderMap, header::AUTHORIZATION, request::Parts};
use backscroll_matrix::{Signature, VerifyKey};
use futures_util::future::join_all;
use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use serde::Serialize;

use self::header::{Credentials, Malformed};
use crate::{
    clock::Clock,
    keys::{Asker, Keys, NoKey},
    limits::Caller,
    server_name::ServerName,
};

/// Most X-Matrix headers that are looked at. Servers send one for each key they sign with.
const MAX_HEADERS: usize = 8;

/// What authentication needs to know of ourselves.
#[derive(Debug)]
pub(crate) struct Authenticator {
    pub(crate) server_name: ServerName,
    pub(crate) keys: Keys,
    pub(crate) clock: Clock,
}

/// The content that may have been signed.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A request without a body.
    Absent,
    /// A body of no bytes where one was due. Synapse signs no content then, Tuwunel signs `{}`.
    Empty,
    /// A body, parsed.
    Json(CanonicalJsonValue),
}

/// Why nobody was authenticated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
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
    #[error("the signature of {0} does not fit the request")]
    Signature(ServerName),
    #[error(
        "{0} signs with a key whose private half everybody knows: it must make another \
         (GHSA-qwcj-h6m8-vp6q)"
    )]
    PublicKnowledge(ServerName),
}

/// Who a request says it is from, as far as its first header can be read. Anybody may say so.
pub(crate) fn claimed_origin(headers: &HeaderMap) -> Option<ServerName> {
    let mut headers = headers.get_all(AUTHORIZATION).iter();
    let credentials = headers.find_map(|it| header::parse(it.as_bytes()))?;
    credentials.ok().map(|it| it.origin)
}

/// Canonical JSON as it stands: the members are in the order of their names.
#[derive(Serialize)]
struct SignedObject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a CanonicalJsonValue>,
    destination: &'a str,
    method: &'a str,
    origin: &'a str,
    uri: &'a str,
}

impl Authenticator {
    /// The server that signed this request.
    pub(crate) async fn authenticate(
        &self,
        request: &Parts,
        content: &Content,
    ) -> Result<ServerName, Unauthenticated> {
        let (origin, headers) = self.read_headers(request)?;
        let caller: Option<&Caller> = request.extensions.get();
        let asker = caller.map_or(Asker::UNKNOWN, |caller| Asker::from(caller.address));
        let signatures = self.known_signatures(&origin, &headers, asker).await?;
        if signatures.iter().any(|(key, _)| key.is_public_knowledge()) {
            return Err(Unauthenticated::PublicKnowledge(origin));
        }
        let verify = |content| {
            let signed = self.signed_bytes(&origin, request, content);
            if signatures.iter().all(|(key, signature)| key.verifies(&signed, signature)) {
                Ok(())
            } else {
                Err(Unauthenticated::Signature(origin.clone()))
            }
        };
        match content {
            Content::Absent => verify(None),
            Content::Json(value) => verify(Some(value)),
            Content::Empty => {
                let braces = CanonicalJsonValue::Object(CanonicalJsonObject::new());
                verify(None).or_else(|_| verify(Some(&braces)))
            }
        }?;
        Ok(origin)
    }

    /// All X-Matrix headers, which agree on who asks and ask us.
    fn read_headers(
        &self,
        request: &Parts,
    ) -> Result<(ServerName, Vec<Credentials>), Unauthenticated> {
        let mut headers = Vec::new();
        let mut origin = None;
        for header in request.headers.get_all(AUTHORIZATION) {
            let Some(credentials) = header::parse(header.as_bytes()) else { continue };
            let credentials = credentials?;
            if headers.len() == MAX_HEADERS {
                return Err(Unauthenticated::TooManyHeaders);
            }
            // Absent in requests of servers older than version 1.3 of the specification.
            if credentials.destination.as_deref().is_some_and(|to| to != self.server_name.as_str())
            {
                return Err(Unauthenticated::Destination(self.server_name.clone()));
            }
            if origin.get_or_insert_with(|| credentials.origin.clone()) != &credentials.origin {
                return Err(Unauthenticated::Origins);
            }
            headers.push(credentials);
        }
        origin.map(|origin| (origin, headers)).ok_or(Unauthenticated::NoHeader)
    }

    /// The bytes that the origin has signed, if the request is what it sent.
    fn signed_bytes(
        &self,
        origin: &ServerName,
        request: &Parts,
        content: Option<&CanonicalJsonValue>,
    ) -> Vec<u8> {
        let signed = SignedObject {
            content,
            destination: self.server_name.as_str(),
            method: request.method.as_str(),
            origin: origin.as_str(),
            uri: request.uri.path_and_query().map_or("/", |target| target.as_str()),
        };
        serde_json::to_vec(&signed).expect("text and canonical JSON can always be written")
    }

    /// The signatures whose key is known, with that key: one at least.
    async fn known_signatures(
        &self,
        origin: &ServerName,
        headers: &[Credentials],
        asker: Asker,
    ) -> Result<Vec<(VerifyKey, Signature)>, Unauthenticated> {
        let mut known = Vec::new();
        let mut unknown = None;
        // Together, so that they are waited for once.
        let asking = headers.iter().map(|it| self.keys.for_request(origin, &it.key_id, asker));
        for (key, credentials) in join_all(asking).await.into_iter().zip(headers) {
            match key {
                Ok(key) => known.push((key, credentials.signature)),
                Err(cause) => unknown = Some(cause),
            }
        }
        match unknown {
            _ if !known.is_empty() => Ok(known),
            Some(cause) => Err(Unauthenticated::NoKey { origin: origin.clone(), cause }),
            None => Err(Unauthenticated::NoHeader),
        }
    }
}

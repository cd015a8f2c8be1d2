//! Other homeservers: signs federation requests with test keys and sends them.

use std::{collections::BTreeMap, net::SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::signing::Signer;

/// Homeservers that exist only in tests, by name, and the HTTP client that they share.
#[derive(Debug)]
pub struct Federation {
    signers: BTreeMap<String, Signer>,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// A federation request before it is signed.
#[derive(Clone, Copy, Debug)]
pub struct FederationRequest<'a> {
    /// The server that sends the request.
    pub origin: &'a str,
    /// The server that receives the request.
    pub destination: &'a str,
    /// The HTTP method.
    pub method: &'a str,
    /// Path and query.
    pub uri: &'a str,
    /// The JSON body; `None` for an empty body.
    pub content: Option<&'a Value>,
}

/// The response to a federation request.
#[derive(Clone, Debug)]
pub struct FederationResponse {
    /// The HTTP status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Federation {
    /// The servers of a `signing-keys.json`: server name to key id and seed.
    pub fn from_json(signing_keys: &str) -> Self {
        #[derive(Deserialize)]
        struct Seed {
            key_id: String,
            signing_seed_base64: String,
        }
        let seeds: BTreeMap<String, Seed> =
            serde_json::from_str(signing_keys).expect("the keys are JSON");
        Self::new(seeds.into_iter().map(|(server_name, it)| {
            let seed = STANDARD_NO_PAD.decode(it.signing_seed_base64).expect("a seed is base64");
            let seed = seed.try_into().expect("a seed has 32 bytes");
            Signer { server_name, key_id: it.key_id, key: SigningKey::from_bytes(&seed) }
        }))
    }

    /// Servers with these keys.
    pub fn new(signers: impl IntoIterator<Item = Signer>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            signers: signers.into_iter().map(|it| (it.server_name.clone(), it)).collect(),
            http: Client::builder(TokioExecutor::new()).build(connector),
        }
    }

    /// The `Authorization` header of a request, signed by its origin.
    ///
    /// <https://spec.matrix.org/v1.16/server-server-api/#request-authentication>
    pub fn authorization(&self, request: FederationRequest<'_>) -> String {
        let FederationRequest { origin, destination, method, uri, content } = request;
        let mut signed = json!({
            "method": method, "uri": uri, "origin": origin, "destination": destination,
        });
        if let Some(content) = content {
            signed["content"] = content.clone();
        }
        let canonical = ruma::canonical_json::to_canonical_value(signed).expect("canonical JSON");
        let signer = self.signers.get(origin).expect("the origin is a server of the tests");
        let signature = signer.sign(&canonical.to_string());
        let key_id = &signer.key_id;
        format!(
            r#"X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}""#
        )
    }

    /// Signs a request, sends it to a gateway and reads the whole response.
    pub async fn send(
        &self,
        gateway: SocketAddr,
        request: FederationRequest<'_>,
    ) -> FederationResponse {
        let body = request.content.map(ToString::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(Method::from_bytes(request.method.as_bytes()).expect("a method"))
            .uri(format!("http://{gateway}{}", request.uri))
            .header("authorization", self.authorization(request))
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .expect("a request");
        let response = self.http.request(request).await.expect("a response");
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        FederationResponse { status, headers, body }
    }
}

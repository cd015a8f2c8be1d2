//! Another homeserver, as far as asking goes: signs requests with a test key and sends them.

use std::{collections::BTreeMap, net::SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use serde_json::Value;

/// Keys of servers that exist only in tests.
pub(crate) struct Federation {
    keys: BTreeMap<String, Key>,
    http: Client<HttpConnector, Full<Bytes>>,
}

struct Key {
    id: String,
    key: SigningKey,
}

/// A question as it is to be signed and sent.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) origin: &'a str,
    pub(crate) destination: &'a str,
    pub(crate) method: &'a str,
    pub(crate) uri: &'a str,
    pub(crate) content: Option<&'a Value>,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Federation {
    /// Reads `signing-keys.json`.
    pub(crate) fn new(signing_keys: &str) -> Self {
        #[derive(Deserialize)]
        struct Seed {
            key_id: String,
            signing_seed_base64: String,
        }
        let seeds: BTreeMap<String, Seed> =
            serde_json::from_str(signing_keys).expect("the keys are JSON");
        let key = |it: Seed| {
            let seed = STANDARD_NO_PAD.decode(it.signing_seed_base64).expect("a seed is base64");
            let seed = seed.try_into().expect("a seed has 32 bytes");
            Key { id: it.key_id, key: SigningKey::from_bytes(&seed) }
        };
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            keys: seeds.into_iter().map(|(server, seed)| (server, key(seed))).collect(),
            http: Client::builder(TokioExecutor::new()).build(connector),
        }
    }

    /// The `Authorization` header of a question.
    pub(crate) fn authorization(&self, question: Question<'_>) -> String {
        let Question { origin, destination, method, uri, content } = question;
        let mut object = serde_json::json!({
            "method": method, "uri": uri, "origin": origin, "destination": destination,
        });
        if let (Some(content), Some(members)) = (content, object.as_object_mut()) {
            members.insert("content".to_owned(), content.clone());
        }
        let canonical = ruma::canonical_json::to_canonical_value(object).expect("canonical JSON");
        let Key { id, key } = self.keys.get(origin).expect("a server of the test federation");
        let signature =
            STANDARD_NO_PAD.encode(key.sign(canonical.to_string().as_bytes()).to_bytes());
        format!(
            r#"X-Matrix origin="{origin}",destination="{destination}",key="{id}",sig="{signature}""#
        )
    }

    /// Signs a question and asks it.
    pub(crate) async fn ask(&self, gateway: SocketAddr, question: Question<'_>) -> Answer {
        let body = question.content.map(ToString::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(Method::from_bytes(question.method.as_bytes()).expect("a method"))
            .uri(format!("http://{gateway}{}", question.uri))
            .header("authorization", self.authorization(question))
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .expect("a request");
        let response = self.http.request(request).await.expect("an answer");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        Answer { status, body }
    }
}

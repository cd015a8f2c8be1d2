//! The limit: a bare hyper server that verifies the same signature of the same request and returns
//! the same bytes from memory. No gateway on this machine can be faster.

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use ed25519_dalek::{Signature, VerifyingKey};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::rooms;

/// What the server knows.
struct Limit {
    /// Response bodies by request target and content.
    responses: HashMap<String, Bytes>,
    key: VerifyingKey,
}

/// Serves the responses of a file until the process is killed.
pub(crate) async fn serve(responses: &Path) -> anyhow::Result<()> {
    let responses: HashMap<String, String> = serde_json::from_slice(&fs::read(responses)?)?;
    let responses = responses.into_iter().map(|(key, it)| (key, it.into())).collect();
    let key = rooms::signer(rooms::ASKING).key.verifying_key();
    let limit = Arc::new(Limit { responses, key });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let limit = Arc::clone(&limit);
        tokio::spawn(async move {
            let service = service_fn(|request| limit.respond(request));
            // The load generator reports a connection that breaks.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

impl Limit {
    async fn respond(&self, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let body = str::from_utf8(&body)?;
        let target = parts.uri.path_and_query().context("no target")?.as_str();
        let content = if body.is_empty() { String::new() } else { format!(r#""content":{body},"#) };
        let destination = rooms::OURS;
        let origin = rooms::ASKING;
        let method = parts.method.as_str();
        let signed = format!(
            r#"{{{content}"destination":"{destination}","method":"{method}","origin":"{origin}","uri":"{target}"}}"#
        );
        let header = parts.headers.get(header::AUTHORIZATION).context("no signature")?.to_str()?;
        let (_, signature) = header.rsplit_once("sig=\"").context("no signature")?;
        let signature = STANDARD_NO_PAD.decode(signature.trim_end_matches('"'))?;
        let signature = Signature::from_slice(&signature)?;
        let mut response = Response::new(Full::default());
        match self.key.verify_strict(signed.as_bytes(), &signature) {
            Err(_) => *response.status_mut() = StatusCode::UNAUTHORIZED,
            Ok(()) => match self.responses.get(&format!("{target}{body}")) {
                None => *response.status_mut() = StatusCode::NOT_FOUND,
                Some(body) => *response.body_mut() = Full::new(body.clone()),
            },
        }
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        Ok(response)
    }
}

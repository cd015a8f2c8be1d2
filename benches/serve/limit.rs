//! The limit: what is left when there is nothing to find out. A bare hyper server that verifies
//! the same signature of the same request, and returns the same bytes from memory.

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

/// The bytes to answer with, by request target and content.
type Answers = HashMap<String, Bytes>;

/// Serves until it is killed.
pub(crate) async fn serve(answers: &Path) -> anyhow::Result<()> {
    let answers: HashMap<String, String> = serde_json::from_slice(&fs::read(answers)?)?;
    let answers: Answers = answers.into_iter().map(|(key, it)| (key, it.into())).collect();
    let shared = Arc::new((answers, rooms::signing_key().verifying_key()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &shared));
            // A connection that breaks is the client's business.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    (answers, key): &(Answers, VerifyingKey),
) -> anyhow::Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let (body, target) = (str::from_utf8(&body)?, parts.uri.path_and_query());
    let target = target.context("no target")?.as_str();
    let content = if body.is_empty() { String::new() } else { format!(r#""content":{body},"#) };
    let (destination, origin, method) = (rooms::OURS, rooms::ASKING, parts.method.as_str());
    let signed = format!(
        r#"{{{content}"destination":"{destination}","method":"{method}","origin":"{origin}","uri":"{target}"}}"#
    );
    let header = parts.headers.get(header::AUTHORIZATION).context("no signature")?.to_str()?;
    let (_, signature) = header.rsplit_once("sig=\"").context("no signature")?;
    let signature = STANDARD_NO_PAD.decode(signature.trim_end_matches('"'))?;
    let mut response = Response::new(Full::default());
    match key.verify_strict(signed.as_bytes(), &Signature::from_slice(&signature)?) {
        Err(_) => *response.status_mut() = StatusCode::UNAUTHORIZED,
        Ok(()) => match answers.get(&format!("{target}{body}")) {
            None => *response.status_mut() = StatusCode::NOT_FOUND,
            Some(answer) => *response.body_mut() = Full::new(answer.clone()),
        },
    }
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

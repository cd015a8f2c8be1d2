//! One HTTPS exchange with another server: a connection of its own, an answer of bounded size.

use std::{pin::pin, time::Duration};

use axum::{
    body::Bytes,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time;

use super::{
    ended::EndsQuietly,
    network::{Connector, Unreachable},
    steps::Route,
};

/// What hyper may buffer of a head.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// What stands before some servers refuses requests that do not say who asks.
const OURSELVES: &str = concat!("Backscroll/", env!("CARGO_PKG_VERSION"));

/// What is asked of a server.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    /// JSON, or nothing.
    pub(super) body: Vec<u8>,
    /// A larger answer is none.
    pub(super) max_bytes: usize,
}

/// What it answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Connector {
    /// Asks the server at the end of a route.
    pub(super) async fn ask(
        &self,
        route: &Route,
        question: Question,
    ) -> Result<Answer, Unreachable> {
        let Question { method, target, body, max_bytes } = question;
        let stream = self.connect(route).await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake::<_, Full<Bytes>>(TokioIo::new(EndsQuietly(stream)))
            .await?;
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, &route.host)
            .header(header::USER_AGENT, OURSELVES)
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request =
            request.body(Full::from(body)).map_err(|_| Unreachable::Name(route.host.clone()))?;
        let exchange = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, max_bytes).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    Unreachable::TooLarge(max_bytes)
                } else {
                    Unreachable::BrokenOff
                }
            })?;
            Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        // The connection only moves while it is polled; it ends with the answer.
        let mut exchange = pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            // Why it ended is something the exchange hears, too.
            _ended = connection => exchange.await,
        }
    }
}

/// Within the time that there is.
pub(super) async fn within<T>(
    timeout: Duration,
    answer: impl Future<Output = Result<T, Unreachable>>,
) -> Result<T, Unreachable> {
    time::timeout(timeout, answer).await.unwrap_or(Err(Unreachable::Slow))
}

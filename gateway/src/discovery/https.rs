//! One HTTPS request to another server: on a connection of its own, with a response of limited size.

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

/// Largest head of a response.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// The `User-Agent` header. Some servers refuse requests without it.
const PRODUCT: &str = concat!("Backscroll/", env!("CARGO_PKG_VERSION"));

/// A request to another server.
#[derive(Clone, Debug)]
pub(super) struct HttpsRequest {
    pub(super) method: Method,
    /// Path and query of the URL.
    pub(super) target: String,
    /// A JSON body, or empty for none.
    pub(super) body: Vec<u8>,
    /// Largest response body that is accepted.
    pub(super) max_bytes: usize,
}

/// The response of another server.
#[derive(Debug)]
pub(super) struct HttpsResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Connector {
    /// Sends a request to the server that a route leads to.
    pub(super) async fn send(
        &self,
        route: &Route,
        request: HttpsRequest,
    ) -> Result<HttpsResponse, Unreachable> {
        let HttpsRequest { method, target, body, max_bytes } = request;
        let stream = self.connect(route).await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake::<_, Full<Bytes>>(TokioIo::new(EndsQuietly(stream)))
            .await?;
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, &route.host)
            .header(header::USER_AGENT, PRODUCT)
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
            Ok(HttpsResponse { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        // The connection makes progress only while it is polled. It ends with the response.
        let mut exchange = pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            // The exchange fails with the cause of the end.
            _ended = connection => exchange.await,
        }
    }
}

/// Limits the time for a response.
pub(super) async fn within<T>(
    timeout: Duration,
    answer: impl Future<Output = Result<T, Unreachable>>,
) -> Result<T, Unreachable> {
    time::timeout(timeout, answer).await.unwrap_or(Err(Unreachable::Slow))
}

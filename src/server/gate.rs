//! Handles calls while the store is being opened. Health and reflection are answered at once. Other
//! calls wait a moment, so that a client that starts together with the service need not retry; after
//! that they get OPENING.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::http::{Request, Response};
use tokio::{sync::SetOnce, time};
use tonic::{body::Body, service::Routes};
use tower::Service;

use crate::rpc;

/// How long a call waits for the store.
const PATIENCE: Duration = Duration::from_secs(5);
/// Prefix of the paths that need no store: health and reflection.
const EARLY: &str = "/grpc.";

/// Routes of which most are set later, when the store is open.
#[derive(Clone)]
pub(super) struct Gate {
    early: Routes,
    rest: Arc<SetOnce<Routes>>,
}

impl Gate {
    /// A gate that only handles calls to some routes.
    pub(super) fn new(early: Routes) -> Self {
        Self { early, rest: Arc::default() }
    }

    /// Opens the gate for the other routes.
    pub(super) fn open(&self, rest: Routes) {
        self.rest.set(rest).expect("the gate is opened once");
    }

    /// Returns the gate as the routes of a server.
    pub(super) fn routes(self) -> Routes {
        Routes::from(axum::Router::new().fallback_service(self))
    }
}

impl Service<Request<axum::body::Body>> for Gate {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<axum::body::Body>) -> Self::Future {
        if request.uri().path().starts_with(EARLY) {
            return Box::pin(self.early.clone().call(request));
        }
        if let Some(rest) = self.rest.get() {
            return Box::pin(rest.clone().call(request));
        }
        let rest = Arc::clone(&self.rest);
        Box::pin(async move {
            match time::timeout(PATIENCE, rest.wait()).await {
                Ok(routes) => routes.clone().call(request).await,
                Err(_elapsed) => Ok(rpc::opening().into_http()),
            }
        })
    }
}

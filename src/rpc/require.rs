//! Who may call at all: whoever shows what the service was told to require. Health is answered to
//! everybody, since orchestrators' probes can show nothing.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use backscroll_tls::{Token, Watched};
use tonic::{
    body::Body,
    codegen::http::{Request, Response, header::AUTHORIZATION},
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::{Layer, Service};

use super::status;

const HEALTH: &str = "/grpc.health.v1.Health/";

/// What callers must show.
#[derive(Clone, Debug, Default)]
pub struct Require {
    /// A certificate; that its authority is the right one was seen to when they connected.
    pub certificate: bool,
    /// The token.
    pub token: Option<Arc<Watched<Token>>>,
}

/// A service that is called by nobody else.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    require: Require,
    inner: S,
}

impl Require {
    /// Why a caller is refused.
    fn refuses<B>(&self, request: &Request<B>) -> Option<(&'static str, &'static str)> {
        if request.uri().path().starts_with(HEALTH) {
            return None;
        }
        let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
        if self.certificate && connection.and_then(TlsConnectInfo::peer_certs).is_none() {
            return Some(("CERTIFICATE_MISSING", "show a client certificate"));
        }
        let Some(token) = &self.token else { return None };
        let mut shown = request.headers().get_all(AUTHORIZATION).iter();
        match (shown.next(), shown.next()) {
            (Some(shown), None) if token.get().is_shown(shown.as_bytes()) => None,
            (None, _) => Some(("TOKEN_MISSING", "show the token: authorization: Bearer ...")),
            _ => Some(("TOKEN_INVALID", "this is not the token")),
        }
    }
}

impl<S> Layer<S> for Require {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { require: self.clone(), inner }
    }
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = futures_util::future::Either<
        S::Future,
        futures_util::future::Ready<Result<Response<Body>, S::Error>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.require.refuses(&request) {
            None => futures_util::future::Either::Left(self.inner.call(request)),
            Some((reason, message)) => {
                let refusal = status::unauthenticated(reason, message).into_http();
                futures_util::future::Either::Right(futures_util::future::ready(Ok(refusal)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses(require: &Require, path: &str, headers: &[&str]) -> Option<&'static str> {
        let mut request = Request::builder().uri(path);
        for header in headers {
            request = request.header(AUTHORIZATION, *header);
        }
        require.refuses(&request.body(()).unwrap()).map(|(reason, _)| reason)
    }

    #[test]
    fn everything_but_health_needs_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "0123456789abcdef").unwrap();
        let require = Require { certificate: false, token: Some(Token::watched(path).unwrap()) };
        let good = "Bearer 0123456789abcdef";
        for (path, headers, expected) in [
            ("/grpc.health.v1.Health/Check", &[][..], None),
            ("/backscroll.history.v1.HistoryService/Backfill", &[good], None),
            ("/backscroll.history.v1.HistoryService/Backfill", &[], Some("TOKEN_MISSING")),
            ("/backscroll.history.v1.IngestService/AppendEvents", &["x"], Some("TOKEN_INVALID")),
            (
                "/backscroll.history.v1.KeyService/GetServerKeys",
                &[good, "x"],
                Some("TOKEN_INVALID"),
            ),
            ("/grpc.reflection.v1.ServerReflection/X", &[], Some("TOKEN_MISSING")),
            ("//grpc.health.v1.Health/Check", &[], Some("TOKEN_MISSING")),
            ("/", &[], Some("TOKEN_MISSING")),
        ] {
            assert_eq!(refuses(&require, path, headers), expected, "{path} {headers:?}");
        }
    }

    #[test]
    fn a_certificate_is_missing_where_there_is_no_tls() {
        let require = Require { certificate: true, token: None };
        assert_eq!(refuses(&require, "/x", &[]), Some("CERTIFICATE_MISSING"));
        assert_eq!(refuses(&require, "/grpc.health.v1.Health/Watch", &[]), None);
        assert_eq!(refuses(&Require::default(), "/x", &[]), None);
    }
}

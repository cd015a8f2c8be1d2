//! Checks that a caller presents what the service requires: a client certificate, a token, or both.
//! Health checks need neither, because the probes of orchestrators can present neither.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use backscroll_tls::{Token, Watched};
use futures_util::future::{Either, Ready, ready};
use tonic::{
    body::Body,
    codegen::http::{Request, Response, header::AUTHORIZATION},
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::{Layer, Service};

use super::status;
use crate::proto::v1::ErrorReason;

const HEALTH: &str = "/grpc.health.v1.Health/";

/// The only methods that the token of gateways allows.
const OF_GATEWAYS: [&str; 6] = [
    "/backscroll.history.v1.FeederService/GetFeeder",
    "/backscroll.history.v1.HistoryService/Backfill",
    "/backscroll.history.v1.HistoryService/CompareAnswers",
    "/backscroll.history.v1.HistoryService/GetMissingEvents",
    "/backscroll.history.v1.KeyService/GetServerKeys",
    "/backscroll.history.v1.KeyService/PutServerKeys",
];
/// The service that the other token does not allow: a caller that puts the keys of a server can
/// impersonate that server at every gateway.
const ONLY_OF_GATEWAYS: &str = "/backscroll.history.v1.KeyService/";

/// What callers must present. By default they need to present neither a certificate nor a token.
#[derive(Clone, Debug, Default)]
pub struct Require {
    /// Whether a client certificate is required. The TLS handshake has verified its issuer.
    pub certificate: bool,
    /// The token of internal callers and operators. It allows everything but `KeyService`.
    pub token: Option<Arc<Watched<Token>>>,
    /// The token of gateways. It allows what gateways call and nothing else. Used only with `token`.
    pub gateway_token: Option<Arc<Watched<Token>>>,
}

/// A request extension: the caller presented the token of gateways, so the request must name a
/// requesting server.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfGateway;

/// The kind of caller, by its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// A service or an operator of the same homeserver.
    Internal,
    /// A gateway, by its own token.
    Gateway,
}

/// Why a call is refused, with a message for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CallRefused {
    reason: ErrorReason,
    message: &'static str,
}

/// A gRPC service behind the check of [`Require`].
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    require: Require,
    inner: S,
}

impl Require {
    /// The kind of caller, if this caller may call this method.
    fn caller<B>(&self, request: &Request<B>) -> Result<Caller, CallRefused> {
        let path = request.uri().path();
        if path.starts_with(HEALTH) {
            return Ok(Caller::Internal);
        }
        let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
        if self.certificate && connection.and_then(TlsConnectInfo::peer_certs).is_none() {
            return refused(ErrorReason::CertificateMissing, "present a client certificate");
        }
        let Some(token) = &self.token else { return Ok(Caller::Internal) };
        let mut headers = request.headers().get_all(AUTHORIZATION).iter();
        let (Some(header), None) = (headers.next(), headers.next()) else {
            let message = "present exactly one token: authorization: Bearer ...";
            return refused(ErrorReason::TokenMissing, message);
        };
        let is = |token: &Arc<Watched<Token>>| token.get().is_shown(header.as_bytes());
        if is(token) {
            if path.starts_with(ONLY_OF_GATEWAYS) {
                let message = "only gateways may use the keys of servers: present their token";
                return refused(ErrorReason::GatewaysOnly, message);
            }
            return Ok(Caller::Internal);
        }
        if self.gateway_token.as_ref().is_some_and(is) {
            if !OF_GATEWAYS.contains(&path) {
                let message = "gateways may not call this: present the token of internal callers";
                return refused(ErrorReason::NotForGateways, message);
            }
            return Ok(Caller::Gateway);
        }
        refused(ErrorReason::TokenInvalid, "the token is not accepted")
    }
}

fn refused(reason: ErrorReason, message: &'static str) -> Result<Caller, CallRefused> {
    Err(CallRefused { reason, message })
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
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.require.caller(&request) {
            Ok(Caller::Internal) => Either::Left(self.inner.call(request)),
            Ok(Caller::Gateway) => {
                request.extensions_mut().insert(OfGateway);
                Either::Left(self.inner.call(request))
            }
            Err(CallRefused { reason, message }) => {
                Either::Right(ready(Ok(status::refuse(reason, message).into_http())))
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
        let refused = require.caller(&request.body(()).unwrap()).err();
        refused.map(|it| it.reason.as_str_name())
    }

    #[test]
    fn every_method_but_health_needs_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "0123456789abcdef").unwrap();
        let token = Some(Token::watched(path).unwrap());
        let require = Require { certificate: false, token, gateway_token: None };
        let good = "Bearer 0123456789abcdef";
        for (path, headers, expected) in [
            ("/grpc.health.v1.Health/Check", &[][..], None),
            ("/backscroll.history.v1.HistoryService/Backfill", &[good], None),
            ("/backscroll.history.v1.HistoryService/Backfill", &[], Some("TOKEN_MISSING")),
            ("/backscroll.history.v1.IngestService/AppendEvents", &["x"], Some("TOKEN_INVALID")),
            (
                "/backscroll.history.v1.KeyService/GetServerKeys",
                &[good, "x"],
                Some("TOKEN_MISSING"),
            ),
            ("/backscroll.history.v1.KeyService/PutServerKeys", &[good], Some("GATEWAYS_ONLY")),
            ("/grpc.reflection.v1.ServerReflection/X", &[], Some("TOKEN_MISSING")),
            ("//grpc.health.v1.Health/Check", &[], Some("TOKEN_MISSING")),
            ("/", &[], Some("TOKEN_MISSING")),
        ] {
            assert_eq!(refuses(&require, path, headers), expected, "{path} {headers:?}");
        }
    }

    #[test]
    fn the_two_tokens_allow_different_methods() {
        let dir = tempfile::tempdir().unwrap();
        let token = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            Some(Token::watched(dir.path().join(name)).unwrap())
        };
        let require = Require {
            certificate: false,
            token: token("a", "internal-internal"),
            gateway_token: token("b", "gateway-gateway-gateway"),
        };
        let (internal, gateway) = ("Bearer internal-internal", "Bearer gateway-gateway-gateway");
        for (method, by_internal, by_gateway) in [
            ("HistoryService/Backfill", None, None),
            ("HistoryService/GetMissingEvents", None, None),
            ("HistoryService/CompareAnswers", None, None),
            ("HistoryService/ListEvents", None, Some("NOT_FOR_GATEWAYS")),
            ("HistoryService/GetState", None, Some("NOT_FOR_GATEWAYS")),
            ("IngestService/AppendEvents", None, Some("NOT_FOR_GATEWAYS")),
            ("IngestService/DeleteRoom", None, Some("NOT_FOR_GATEWAYS")),
            ("AdminService/Stats", None, Some("NOT_FOR_GATEWAYS")),
            ("FeederService/GetFeeder", None, None),
            ("FeederService/Feed", None, Some("NOT_FOR_GATEWAYS")),
            ("FeederService/PutCursor", None, Some("NOT_FOR_GATEWAYS")),
            ("KeyService/GetServerKeys", Some("GATEWAYS_ONLY"), None),
            ("KeyService/PutServerKeys", Some("GATEWAYS_ONLY"), None),
        ] {
            let path = format!("/backscroll.history.v1.{method}");
            assert_eq!(refuses(&require, &path, &[internal]), by_internal, "{method}");
            assert_eq!(refuses(&require, &path, &[gateway]), by_gateway, "{method}");
            assert_eq!(refuses(&require, &path, &["Bearer x"]), Some("TOKEN_INVALID"), "{method}");
        }
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        assert_eq!(refuses(&require, reflection, &[gateway]), Some("NOT_FOR_GATEWAYS"));
        assert_eq!(refuses(&require, "/grpc.health.v1.Health/Check", &[]), None);
    }

    #[test]
    fn a_connection_without_tls_has_no_certificate() {
        let require = Require { certificate: true, ..Require::default() };
        assert_eq!(refuses(&require, "/x", &[]), Some("CERTIFICATE_MISSING"));
        assert_eq!(refuses(&require, "/grpc.health.v1.Health/Watch", &[]), None);
        assert_eq!(refuses(&Require::default(), "/x", &[]), None);
    }
}

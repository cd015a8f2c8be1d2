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

/// What gateways call, and all that they may call.
const OF_GATEWAYS: [&str; 4] = [
    "/backscroll.history.v1.HistoryService/Backfill",
    "/backscroll.history.v1.HistoryService/GetMissingEvents",
    "/backscroll.history.v1.KeyService/GetServerKeys",
    "/backscroll.history.v1.KeyService/PutServerKeys",
];
/// What nobody else may call: whoever puts a server's keys can speak as that server to gateways.
const ONLY_OF_GATEWAYS: &str = "/backscroll.history.v1.KeyService/";

/// What callers must show.
#[derive(Clone, Debug, Default)]
pub struct Require {
    /// A certificate; that its authority is the right one was seen to when they connected.
    pub certificate: bool,
    /// The token of whoever feeds and operates the service. It opens everything but `KeyService`.
    pub token: Option<Arc<Watched<Token>>>,
    /// The token of gateways. It opens what they call, and nothing else. Not without the other.
    pub gateway_token: Option<Arc<Watched<Token>>>,
}

/// An extension of requests that show the gateways' token. Such a request asks for another server.
#[derive(Clone, Copy, Debug)]
pub(super) struct OfGateway;

/// Who calls, as far as its token says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// A service or an operator of our own homeserver.
    Internal,
    /// A gateway.
    Gateway,
}

/// Why a caller is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// It did not show who it is.
    Stranger(&'static str, &'static str),
    /// It is somebody else's to call this.
    NotAllowed(&'static str, &'static str),
}

/// A service that is called by nobody else.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    require: Require,
    inner: S,
}

impl Require {
    /// Who calls, if it may call this method.
    fn caller<B>(&self, request: &Request<B>) -> Result<Caller, Refused> {
        if request.uri().path().starts_with(HEALTH) {
            return Ok(Caller::Internal);
        }
        let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
        if self.certificate && connection.and_then(TlsConnectInfo::peer_certs).is_none() {
            return Err(Refused::Stranger("CERTIFICATE_MISSING", "show a client certificate"));
        }
        let Some(token) = &self.token else { return Ok(Caller::Internal) };
        let mut shown = request.headers().get_all(AUTHORIZATION).iter();
        let (Some(shown), None) = (shown.next(), shown.next()) else {
            let text = "show one token: authorization: Bearer ...";
            return Err(Refused::Stranger("TOKEN_MISSING", text));
        };
        let path = request.uri().path();
        let is = |token: &Arc<Watched<Token>>| token.get().is_shown(shown.as_bytes());
        if is(token) {
            let text = "the keys of servers are the gateways' business: show their token";
            let may = !path.starts_with(ONLY_OF_GATEWAYS);
            let refused = Refused::NotAllowed("GATEWAYS_ONLY", text);
            return may.then_some(Caller::Internal).ok_or(refused);
        }
        if self.gateway_token.as_ref().is_some_and(is) {
            let text = "this is not the gateways' business: show the token of the operators";
            let may = OF_GATEWAYS.contains(&path);
            let refused = Refused::NotAllowed("NOT_FOR_GATEWAYS", text);
            return may.then_some(Caller::Gateway).ok_or(refused);
        }
        Err(Refused::Stranger("TOKEN_INVALID", "this is not the token"))
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.require.caller(&request) {
            Ok(caller) => {
                if caller == Caller::Gateway {
                    request.extensions_mut().insert(OfGateway);
                }
                futures_util::future::Either::Left(self.inner.call(request))
            }
            Err(refused) => {
                let refusal = match refused {
                    Refused::Stranger(reason, text) => status::unauthenticated(reason, text),
                    Refused::NotAllowed(reason, text) => status::not_allowed(reason, text),
                };
                let refusal = refusal.into_http();
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
        require.caller(&request.body(()).unwrap()).err().map(|refused| match refused {
            Refused::Stranger(reason, _) | Refused::NotAllowed(reason, _) => reason,
        })
    }

    #[test]
    fn everything_but_health_needs_the_token() {
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
    fn feeders_and_gateways_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let token = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            Some(Token::watched(dir.path().join(name)).unwrap())
        };
        let require = Require {
            certificate: false,
            token: token("a", "feeder-feeder-feeder"),
            gateway_token: token("b", "gateway-gateway-gateway"),
        };
        let (feeder, gateway) = ("Bearer feeder-feeder-feeder", "Bearer gateway-gateway-gateway");
        for (method, of_feeder, of_gateway) in [
            ("HistoryService/Backfill", None, None),
            ("HistoryService/GetMissingEvents", None, None),
            ("HistoryService/ListEvents", None, Some("NOT_FOR_GATEWAYS")),
            ("HistoryService/GetState", None, Some("NOT_FOR_GATEWAYS")),
            ("IngestService/AppendEvents", None, Some("NOT_FOR_GATEWAYS")),
            ("IngestService/DeleteRoom", None, Some("NOT_FOR_GATEWAYS")),
            ("AdminService/Stats", None, Some("NOT_FOR_GATEWAYS")),
            ("KeyService/GetServerKeys", Some("GATEWAYS_ONLY"), None),
            ("KeyService/PutServerKeys", Some("GATEWAYS_ONLY"), None),
        ] {
            let path = format!("/backscroll.history.v1.{method}");
            assert_eq!(refuses(&require, &path, &[feeder]), of_feeder, "{method}");
            assert_eq!(refuses(&require, &path, &[gateway]), of_gateway, "{method}");
            assert_eq!(refuses(&require, &path, &["Bearer x"]), Some("TOKEN_INVALID"), "{method}");
        }
        let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        assert_eq!(refuses(&require, reflection, &[gateway]), Some("NOT_FOR_GATEWAYS"));
        assert_eq!(refuses(&require, "/grpc.health.v1.Health/Check", &[]), None);
    }

    #[test]
    fn a_certificate_is_missing_where_there_is_no_tls() {
        let require = Require { certificate: true, ..Require::default() };
        assert_eq!(refuses(&require, "/x", &[]), Some("CERTIFICATE_MISSING"));
        assert_eq!(refuses(&require, "/grpc.health.v1.Health/Watch", &[]), None);
        assert_eq!(refuses(&Require::default(), "/x", &[]), None);
    }
}

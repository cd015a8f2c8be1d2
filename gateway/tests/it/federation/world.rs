//! Other servers, with names, addresses and certificates, all on the loopback interface. Each address of a
//! test is mapped to the port where its server listens; connections to other addresses fail.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{
        Response, Uri,
        header::{HOST, USER_AGENT},
    },
};
use backscroll_gateway::{
    clock::Clock,
    discovery::{Dial, Network},
    keys::FetchOptions,
};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;

use super::dns::NameServer;
use crate::support::{NOW_MS, Stage, client::Ask, peer::Peer};

/// A request that a server has received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The address before it was mapped.
    pub(super) at: String,
    pub(super) sni: Option<String>,
    pub(super) host: String,
    pub(super) target: String,
    pub(super) body: Vec<u8>,
    pub(super) user_agent: Option<String>,
}

/// The response of a server.
#[derive(Clone, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// The response waits for a permit of this.
    pub(super) hold: Option<Arc<Semaphore>>,
}

pub(super) type Replies = Arc<Mutex<HashMap<String, Reply>>>;

pub(super) struct World {
    pub(super) dns: NameServer,
    authority: Arc<CertifiedIssuer<'static, KeyPair>>,
    listening: Arc<Mutex<HashMap<SocketAddr, SocketAddr>>>,
    dialled: Arc<Mutex<Vec<SocketAddr>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    pub(super) now_ms: Arc<AtomicU64>,
}

impl Reply {
    pub(super) fn json(body: &Value) -> Self {
        Self { status: 200, body: body.to_string().into_bytes(), ..Self::default() }
    }

    pub(super) fn redirect(location: &str) -> Self {
        let headers = vec![("location", location.to_owned())];
        Self { status: 302, headers, ..Self::default() }
    }

    /// Delegates to a server.
    pub(super) fn well_known(server: &str) -> Self {
        Self::json(&json!({ "m.server": server }))
    }
}

impl World {
    pub(super) async fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap());
        Self {
            dns: NameServer::start().await,
            authority: Arc::new(authority.unwrap()),
            listening: Arc::default(),
            dialled: Arc::default(),
            seen: Arc::default(),
            now_ms: Arc::new(AtomicU64::new(NOW_MS)),
        }
    }

    pub(super) fn network(&self) -> Network {
        let mut network = Network::with_name_servers(&[self.dns.address]).unwrap();
        network.trust(self.authority.pem().as_bytes()).unwrap();
        let (listening, dialled) = (Arc::clone(&self.listening), Arc::clone(&self.dialled));
        network.dial = Dial::new(move |address| {
            dialled.lock().unwrap().push(address);
            let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
            listening.lock().unwrap().get(&address).copied().unwrap_or(nowhere)
        });
        network
    }

    /// Starts a gateway in this world.
    pub(super) async fn gateway(&self, notaries: &[&str]) -> Stage {
        let notaries = notaries.iter().map(|name| name.parse().unwrap()).collect();
        self.gateway_with(FetchOptions { network: self.network(), notaries }).await
    }

    pub(super) async fn gateway_with(&self, fetching: FetchOptions) -> Stage {
        let now_ms = Arc::clone(&self.now_ms);
        Stage::start_with(|options| {
            options.fetching = Some(fetching);
            options.clock = Clock::new(move || now_ms.load(Ordering::Relaxed));
        })
        .await
    }

    /// Starts another gateway, with the same history service.
    pub(super) async fn gateway_beside(&self, first: &Stage) -> Stage {
        let (now_ms, network) = (Arc::clone(&self.now_ms), self.network());
        let history: Uri = format!("http://{}", first.history.address).parse().unwrap();
        Stage::start_with(|options| {
            options.fetching = Some(FetchOptions { network, notaries: Vec::new() });
            options.clock = Clock::new(move || now_ms.load(Ordering::Relaxed));
            options.history = history.into();
        })
        .await
    }

    /// Starts a gateway that trusts the local machine as a proxy.
    pub(super) async fn gateway_behind_a_proxy(&self) -> Stage {
        let (now_ms, network) = (Arc::clone(&self.now_ms), self.network());
        Stage::start_with(|options| {
            options.fetching = Some(FetchOptions { network, notaries: Vec::new() });
            options.clock = Clock::new(move || now_ms.load(Ordering::Relaxed));
            options.limits.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        })
        .await
    }

    /// Starts a host that accepts connections and never responds.
    pub(super) async fn silent(&self, at: &str) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let real = listener.local_addr().unwrap();
        self.listening.lock().unwrap().insert(at.parse().unwrap(), real);
        tokio::spawn(async move {
            let mut accepted = Vec::new();
            loop {
                accepted.push(listener.accept().await.unwrap());
            }
        });
    }

    /// Starts a server that answers every request with these bytes and closes the connection, with or
    /// without a TLS `close_notify`.
    pub(super) async fn raw_site(&self, at: &str, certified: &str, answer: Vec<u8>, says_so: bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let real = listener.local_addr().unwrap();
        self.listening.lock().unwrap().insert(at.parse().unwrap(), real);
        let acceptor = self.acceptor(certified);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(&answer).await.unwrap();
                stream.flush().await.unwrap();
                if says_so {
                    stream.shutdown().await.unwrap();
                } else {
                    stream.get_mut().0.shutdown().await.unwrap();
                }
            }
        });
    }

    pub(super) fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    /// Starts a server at an address, with a certificate for a name. Without a reply for a path, it
    /// responds with 404.
    pub(super) async fn site(&self, at: &str, certified: &str) -> Replies {
        let replies = Replies::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let real = listener.local_addr().unwrap();
        self.listening.lock().unwrap().insert(at.parse().unwrap(), real);
        let acceptor = self.acceptor(certified);
        let (at, seen, served) = (at.to_owned(), Arc::clone(&self.seen), Arc::clone(&replies));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(connection(
                    acceptor.clone(),
                    stream,
                    (at.clone(), Arc::clone(&seen), Arc::clone(&served)),
                ));
            }
        });
        replies
    }

    fn acceptor(&self, certified: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![certified.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
        TlsAcceptor::from(Arc::new(config.unwrap()))
    }

    /// Starts a server with published keys, at the address of its name.
    pub(super) async fn server(&self, peer: &Peer, at: &str) -> Replies {
        let (host, _port) = peer.name.split_once(':').unwrap();
        let address: SocketAddr = at.parse().unwrap();
        self.dns.address(host, &address.ip().to_string());
        let replies = self.site(at, host).await;
        self.publish(&replies, peer);
        replies
    }

    /// Publishes the keys of a server, valid for an hour.
    pub(super) fn publish(&self, replies: &Replies, peer: &Peer) {
        replies.set(KEYS, Reply::json(&peer.key_answer_until(self.now() + 3_600_000)));
    }

    /// All requests since the last call.
    pub(super) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// The number of requests for keys since the last call.
    pub(super) fn key_questions(&self) -> usize {
        self.seen().iter().filter(|seen| seen.target == KEYS).count()
    }

    /// The number of connections since the last call of `dialled`.
    pub(super) fn dialled_so_far(&self) -> usize {
        self.dialled.lock().unwrap().len()
    }

    /// The addresses of all connections since the last call.
    pub(super) fn dialled(&self) -> Vec<String> {
        let dialled = std::mem::take(&mut *self.dialled.lock().unwrap());
        dialled.iter().map(ToString::to_string).collect()
    }
}

pub(super) const KEYS: &str = "/_matrix/key/v2/server";
pub(super) const QUERY: &str = "/_matrix/key/v2/query";
pub(super) const WELL_KNOWN: &str = "/.well-known/matrix/server";

pub(super) trait Set {
    fn set(&self, target: &str, reply: Reply);
}

impl Set for Replies {
    fn set(&self, target: &str, reply: Reply) {
        self.lock().unwrap().insert(target.to_owned(), reply);
    }
}

/// Sends a request signed by this server. Returns status and errcode, which is empty for 200.
pub(super) async fn ask(gateway: &Stage, peer: &Peer) -> (u16, String) {
    let target = "/_matrix/federation/v1/backfill/!r:us.example?v=$e&limit=1";
    let answer = gateway.send(Ask::new("GET", target).signed_by(peer)).await;
    let errcode = answer.json()["errcode"].as_str().unwrap_or_default().to_owned();
    (answer.status, errcode)
}

/// The same, from an address that a trusted proxy names.
pub(super) async fn ask_from(gateway: &Stage, peer: &Peer, address: &str) -> (u16, String) {
    let target = "/_matrix/federation/v1/backfill/!r:us.example?v=$e&limit=1";
    let ask = Ask::new("GET", target).signed_by(peer).header("X-Forwarded-For", address);
    let answer = gateway.send(ask).await;
    let errcode = answer.json()["errcode"].as_str().unwrap_or_default().to_owned();
    (answer.status, errcode)
}

pub(super) fn granted() -> (u16, String) {
    (200, String::new())
}

pub(super) fn refused() -> (u16, String) {
    (401, "M_UNAUTHORIZED".to_owned())
}

async fn connection(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    (at, seen, replies): (String, Arc<Mutex<Vec<Seen>>>, Replies),
) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let sni = stream.get_ref().1.server_name().map(str::to_owned);
    let service = service_fn(async |request: hyper::Request<Incoming>| {
        let (head, body) = request.into_parts();
        let target = head.uri.to_string();
        let user_agent = head.headers.get(USER_AGENT);
        let user_agent = user_agent.map(|it| it.to_str().unwrap().to_owned());
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        seen.lock().unwrap().push(Seen {
            at: at.clone(),
            sni: sni.clone(),
            host: head.headers[HOST].to_str().unwrap().to_owned(),
            target: target.clone(),
            body,
            user_agent: user_agent.clone(),
        });
        let reply = replies.lock().unwrap().get(&target).cloned();
        let mut reply = reply.unwrap_or(Reply { status: 404, ..Reply::default() });
        // As proxies in front of some servers do.
        if user_agent.is_none() {
            reply = Reply { status: 403, ..Reply::default() };
        }
        if let Some(hold) = reply.hold {
            hold.acquire().await.unwrap().forget();
        }
        let mut response = Response::builder().status(reply.status);
        for (name, value) in reply.headers {
            response = response.header(name, value);
        }
        Ok::<_, Infallible>(response.body(Full::new(Bytes::from(reply.body))).unwrap())
    });
    // The gateway may have closed the connection.
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

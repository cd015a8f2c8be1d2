//! Authentication of callers: TLS in both directions and tokens, both read again when their files
//! change. The callers are the real gateway and the real command line.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backscroll::{
    proto::v1::{
        BackfillRequest, GetMissingEventsRequest, GetServerKeysRequest, ListRoomsRequest,
        SetUserErasedRequest, history_service_client::HistoryServiceClient,
        ingest_service_client::IngestServiceClient, key_service_client::KeyServiceClient,
    },
    rpc::Require,
    server::{self, Callers, Front, Stopping},
    store::Options,
};
use backscroll_gateway::{history::HistoryFlags, server::Options as GatewayOptions};
use backscroll_testkit::{Federation, FederationRequest};
use backscroll_tls::{ClientFiles, Dialer, ServerConfig, ServerFiles, Token, Watched};
use clap::Parser as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command, sync::oneshot, task::JoinHandle};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;
use tower::service_fn;

/// A folder with certificate authorities and the certificates that they signed.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Creates an authority and certificates signed by it.
    fn authority(&self, name: &str, signs: &[&str]) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(self.path(name), authority.pem()).unwrap();
        for signed in signs {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let cert = params.signed_by(&key, &authority).unwrap();
            fs::write(self.path(&format!("{signed}.pem")), cert.pem()).unwrap();
            fs::write(self.path(&format!("{signed}.key")), key.serialize_pem()).unwrap();
        }
    }

    fn server(&self, name: &str, client_ca: Option<&str>) -> Arc<Watched<ServerConfig>> {
        let (cert, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        ServerFiles { cert, key, client_ca: client_ca.map(|it| self.path(it)) }.watched().unwrap()
    }

    fn client(&self, ca: &str, identity: Option<&str>) -> ClientFiles {
        let identity =
            identity.map(|it| (self.path(&format!("{it}.pem")), self.path(&format!("{it}.key"))));
        ClientFiles { ca: self.path(ca), identity }
    }
}

/// A history service on a port of its own.
struct Service {
    port: u16,
    _dir: TempDir,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Service {
    async fn start(callers: Callers) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { cache_bytes: 16 << 20, ..Options::small(dir.path()) };
        let cx =
            tokio::task::spawn_blocking(move || server::open(&options).unwrap()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopping = Stopping { grace: Duration::from_secs(5), ..Stopping::default() };
        let serving = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            let front = Front { listener, callers, metrics: cx.metrics.clone() };
            let hurry = std::future::pending();
            server::run(front, async { Ok(cx) }, stopping, stopped, hurry).await.unwrap();
        });
        Self { port, _dir: dir, stop, serving }
    }

    /// Calls the health service, then the history service, over one new connection.
    async fn call(
        &self,
        files: Option<ClientFiles>,
        token: Option<&str>,
    ) -> anyhow::Result<Result<(), Status>> {
        let tls = files.map(|it| it.watched().unwrap());
        let dialer = Arc::new(Dialer { tls, host: "localhost".to_owned() });
        let port = self.port;
        let dial = service_fn(move |_| {
            let dialer = Arc::clone(&dialer);
            async move { dialer.dial(("127.0.0.1", port)).await }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(dial).await?;
        HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await?;
        let mut request = Request::new(ListRoomsRequest::default());
        if let Some(token) = token {
            let shown = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", shown);
        }
        Ok(HistoryServiceClient::new(channel).list_rooms(request).await.map(drop))
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap();
    }
}

fn refused(answer: anyhow::Result<Result<(), Status>>) -> Code {
    answer.unwrap().unwrap_err().code()
}

/// Starts a gateway with these flags; returns the status of `/readyz` and of a federation request.
async fn gateway(files: &Path, port: u16, scheme: &str, flags: &[&str]) -> (u16, u16) {
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        history: HistoryFlags,
    }
    let url = format!("{scheme}://localhost:{port}");
    let flags = flags.iter().map(|it| match it.strip_prefix('@') {
        Some(name) => files.join(name).to_str().unwrap().to_owned(),
        None => (*it).to_owned(),
    });
    let flags = ["x".to_owned(), "--history".to_owned(), url].into_iter().chain(flags);
    let history = Flags::try_parse_from(flags).unwrap().history.into_options().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let keys = crate::support::rooms::keys();
    let server_keys = backscroll_gateway::keys::PinnedKeys::from_json(keys.server.as_bytes());
    let options = GatewayOptions {
        keys: server_keys.unwrap(),
        history,
        ..GatewayOptions::new("hs1.example:9101".parse().unwrap(), "http://x".parse().unwrap())
    };
    let serving =
        tokio::spawn(backscroll_gateway::server::serve(listener, options, std::future::pending()));
    let federation = Federation::from_json(&keys.signing);
    let ask = async |uri: &str| {
        let question = FederationRequest {
            origin: "hs2.example:9102",
            destination: "hs1.example:9101",
            method: "GET",
            uri,
            content: None,
        };
        federation.send(address, question).await.status.as_u16()
    };
    let ready = ask("/readyz").await;
    let asked = ask("/_matrix/federation/v1/backfill/!r:x?v=$a&limit=1").await;
    serving.abort();
    (ready, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_check_certificates() {
    let files = Files::new();
    files.authority("ca", &["server", "client"]);
    files.authority("other-ca", &["stranger"]);
    let tls = files.server("server", Some("ca"));
    let require = Require { certificate: true, ..Require::default() };
    let service = Service::start(Callers { tls: Some(tls), require }).await;

    service.call(Some(files.client("ca", Some("client"))), None).await.unwrap().unwrap();
    // Health needs no certificate, other calls do.
    let nobody = service.call(Some(files.client("ca", None)), None).await;
    assert_eq!(refused(nobody), Code::Unauthenticated);
    // A certificate of another authority: either side closes the connection.
    assert!(service.call(Some(files.client("ca", Some("stranger"))), None).await.is_err());
    assert!(service.call(Some(files.client("other-ca", Some("client"))), None).await.is_err());
    assert!(service.call(None, None).await.is_err());

    let mutual = ["--history-ca", "@ca", "--history-cert", "@client.pem"];
    let mutual = [&mutual[..], &["--history-key", "@client.key"]].concat();
    assert_eq!(gateway(files.0.path(), service.port, "https", &mutual).await, (200, 403));
    // 502: the fault is not the client's.
    let only_ca = ["--history-ca", "@ca"];
    assert_eq!(gateway(files.0.path(), service.port, "https", &only_ca).await, (200, 502));
    assert_eq!(gateway(files.0.path(), service.port, "http", &[]).await.0, 503);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_read_again() {
    let files = Files::new();
    files.authority("ca", &["server"]);
    let tls = files.server("server", None);
    let callers = Callers { tls: Some(Arc::clone(&tls)), require: Require::default() };
    let service = Service::start(callers).await;
    service.call(Some(files.client("ca", None)), None).await.unwrap().unwrap();
    // Replaces the authority and the certificate.
    files.authority("ca", &["server"]);
    assert!(service.call(Some(files.client("ca", None)), None).await.is_err());
    assert!(tls.look());
    service.call(Some(files.client("ca", None)), None).await.unwrap().unwrap();
    // Broken files have no effect.
    fs::write(files.path("server.key"), "no key").unwrap();
    assert!(!tls.look());
    service.call(Some(files.client("ca", None)), None).await.unwrap().unwrap();
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_needs_the_token() {
    let files = Files::new();
    fs::write(files.path("token"), "correct horse".replace(' ', "-battery-")).unwrap();
    let token = Token::watched(files.path("token")).unwrap();
    let require = Require { token: Some(Arc::clone(&token)), ..Require::default() };
    let service = Service::start(Callers { tls: None, require }).await;

    service.call(None, Some("correct-battery-horse")).await.unwrap().unwrap();
    assert_eq!(refused(service.call(None, None).await), Code::Unauthenticated);
    assert_eq!(refused(service.call(None, Some("incorrect-battery")).await), Code::Unauthenticated);

    let with_token = ["--history-token-file", "@token"];
    assert_eq!(gateway(files.0.path(), service.port, "http", &with_token).await, (200, 403));
    assert_eq!(gateway(files.0.path(), service.port, "http", &[]).await, (200, 502));
    let url = format!("http://127.0.0.1:{}", service.port);
    for (token_file, code) in [(Some(files.path("token")), Some(0)), (None, Some(1))] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll"));
        command.args(["import", "--server", &url, "tests/rooms/linear-v1/room.ndjson"]);
        command.args(token_file.map(|it| format!("--token-file={}", it.display())));
        assert_eq!(command.output().await.unwrap().status.code(), code);
    }
    fs::write(files.path("token"), "another-battery-horse\n").unwrap();
    assert!(token.look());
    service.call(None, Some("another-battery-horse")).await.unwrap().unwrap();
    assert_eq!(
        refused(service.call(None, Some("correct-battery-horse")).await),
        Code::Unauthenticated
    );
    service.stop().await;
}

/// The token of homeservers opens everything except keys; the token of gateways opens only what gateways
/// need.
#[tokio::test(flavor = "multi_thread")]
async fn homeservers_and_gateways_have_different_tokens() {
    let files = Files::new();
    let token = |name: &str, text: &str| {
        fs::write(files.path(name), text).unwrap();
        Some(Token::watched(files.path(name)).unwrap())
    };
    let require = Require {
        certificate: false,
        token: token("feeder", "feeder-feeder-feeder"),
        gateway_token: token("gateway", "gateway-gateway-gateway"),
    };
    let service = Service::start(Callers { tls: None, require }).await;
    let url = format!("http://127.0.0.1:{}", service.port);
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    for (shown, feeds, lists, keys) in [
        ("feeder-feeder-feeder", "", "", "GATEWAYS_ONLY"),
        ("gateway-gateway-gateway", "NOT_FOR_GATEWAYS", "NOT_FOR_GATEWAYS", "KEYS_UNKNOWN"),
        ("nobody-nobody-nobody", "TOKEN_INVALID", "TOKEN_INVALID", "TOKEN_INVALID"),
    ] {
        let reasons = reasons(&channel, shown).await;
        assert_eq!(reasons, [feeds, lists, keys].map(str::to_owned), "{shown}");
    }
    // A request without a requester is from an internal caller, so that no rule hides an event.
    for (shown, code, reason) in [
        ("feeder-feeder-feeder", Code::NotFound, "ROOM_UNKNOWN"),
        ("gateway-gateway-gateway", Code::PermissionDenied, "NOT_FOR_GATEWAYS"),
    ] {
        for status in of_our_own(&channel, shown).await {
            let info = status.get_details_error_info().unwrap();
            assert_eq!((status.code(), info.reason.as_str()), (code, reason), "{shown}");
        }
    }
    // A gateway may send a request with a requester; here the room is unknown.
    for (file, asked) in [("@gateway", 403), ("@feeder", 403)] {
        let flags = ["--history-token-file", file];
        assert_eq!(gateway(files.0.path(), service.port, "http", &flags).await, (200, asked));
    }
    service.stop().await;
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let shown = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", shown);
    request
}

/// The errors of both history RPCs for an unknown room and no requester.
async fn of_our_own(channel: &Channel, token: &str) -> [Status; 2] {
    let mut history = HistoryServiceClient::new(channel.clone());
    let room_id = "!unknown:one.example".to_owned();
    let backfill = BackfillRequest {
        room_id: room_id.clone(),
        event_ids: vec!["$a".to_owned()],
        limit: Some(1),
        ..BackfillRequest::default()
    };
    let missing = GetMissingEventsRequest { room_id, ..GetMissingEventsRequest::default() };
    [
        history.backfill(with(token, backfill)).await.unwrap_err(),
        history.get_missing_events(with(token, missing)).await.unwrap_err(),
    ]
}

/// The error reasons that a caller with this token gets when it appends, lists rooms, and reads keys.
async fn reasons(channel: &Channel, token: &str) -> [String; 3] {
    let reason = |status: Status| status.get_details_error_info().unwrap().reason;
    let user_id = "@a:one.example".to_owned();
    let erase = with(token, SetUserErasedRequest { user_id, erased: true });
    let feeds = IngestServiceClient::new(channel.clone()).set_user_erased(erase).await;
    let list = with(token, ListRoomsRequest::default());
    let lists = HistoryServiceClient::new(channel.clone()).list_rooms(list).await;
    let server_name = "one.example".to_owned();
    let get = with(token, GetServerKeysRequest { server_name });
    let keys = KeyServiceClient::new(channel.clone()).get_server_keys(get).await;
    [
        feeds.map_or_else(reason, |_| String::new()),
        lists.map_or_else(reason, |_| String::new()),
        keys.map_or_else(reason, |_| String::new()),
    ]
}

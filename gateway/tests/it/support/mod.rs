//! A gateway, the history service behind it, and the servers that send requests.

pub(crate) mod client;
pub(crate) mod frames;
pub(crate) mod history;
pub(crate) mod homeserver;
pub(crate) mod peer;
pub(crate) mod program;
pub(crate) mod tls;

use std::{net::SocketAddr, time::Duration};

use axum::http::Uri;
use backscroll_gateway::{
    clock::Clock,
    fallback::FallbackOptions,
    keys::PinnedKeys,
    metrics::Metrics,
    random::Random,
    server::{Options, serve},
};
use tokio::{
    net::TcpListener,
    task::{self, JoinHandle},
    time,
};
use tokio_util::sync::CancellationToken;

use self::{
    client::{Answer, Ask},
    history::FakeHistory,
    homeserver::FakeHomeserver,
    peer::Peer,
};

/// The name of the gateway's homeserver.
pub(crate) const US: &str = "us.example";
/// The time of the gateway's clock, in milliseconds since 1970.
pub(crate) const NOW_MS: u64 = 1_700_000_000_123;

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that must happen soon. Panics if it does not.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    time::timeout(PATIENCE, work).await.expect(what)
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !holds().await {
            task::yield_now().await;
        }
    })
    .await;
}

/// A running gateway beside a homeserver.
pub(crate) struct Beside {
    pub(crate) stage: Stage,
    pub(crate) homeserver: FakeHomeserver,
    pub(crate) metrics: Metrics,
}

impl Beside {
    /// Starts with changed options. Unless `change` sets it, no request is passed on for being the
    /// first one of its server.
    pub(crate) async fn start_with(
        change: impl FnOnce(&mut Options, &mut FallbackOptions),
    ) -> Self {
        let homeserver = FakeHomeserver::start().await;
        let url: Uri = homeserver.url().parse().unwrap();
        let metrics = Metrics::new();
        let stage = Stage::start_with(|options| {
            options.metrics = metrics.clone();
            let mut fallback =
                FallbackOptions { first_of_origin: false, ..FallbackOptions::from(url) };
            change(options, &mut fallback);
            options.fallback = Some(fallback);
        })
        .await;
        Self { stage, homeserver, metrics }
    }

    pub(crate) async fn start() -> Self {
        Self::start_with(|_, _| {}).await
    }
}

/// A running gateway with everything around it.
pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    pub(crate) history: FakeHistory,
    /// A server whose keys are pinned.
    pub(crate) peer: Peer,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
}

impl Stage {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts with changed options.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Options)) -> Self {
        let history = FakeHistory::start().await;
        let peer = Peer::new("peer.example:8448", 1);
        let url = format!("http://{}", history.address).parse().unwrap();
        let mut options = Options {
            keys: pinned(&[&peer, &Peer::new("other.example", 2)]),
            clock: Clock::new(|| NOW_MS),
            random: Random::new(|| 0.0),
            // Reached only if something is wrong.
            drain_timeout: Duration::from_secs(20),
            ..Options::new(US.parse().unwrap(), url)
        };
        // Tests send more invalid requests than clients may.
        options.limits.failure_rate = 1_000_000;
        change(&mut options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = tokio::spawn(async { serve(listener, options, stopped).await.unwrap() });
        Self { address, history, peer, stop, serving }
    }

    pub(crate) async fn send(&self, ask: Ask) -> Answer {
        client::send(self.address, &ask.bytes()).await
    }

    /// Sends a GET request, signed by the peer.
    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.send(Ask::new("GET", target).signed_by(&self.peer)).await
    }

    /// Sends a POST request with this body, signed by the peer.
    pub(crate) async fn post(&self, target: &str, body: &str) -> Answer {
        self.send(Ask::new("POST", target).body(body).signed_by(&self.peer)).await
    }
}

/// The keys of these servers, pinned.
pub(crate) fn pinned(peers: &[&Peer]) -> PinnedKeys {
    let file = peers.iter().map(|peer| (peer.name.clone(), peer.key_answer()));
    let file = serde_json::Value::Object(file.collect());
    PinnedKeys::from_json(file.to_string().as_bytes()).unwrap()
}

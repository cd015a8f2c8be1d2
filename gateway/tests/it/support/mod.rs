//! A gateway, the history service behind it, and the servers that ask.

pub(crate) mod client;
pub(crate) mod frames;
pub(crate) mod history;
pub(crate) mod peer;
pub(crate) mod program;
pub(crate) mod tls;

use std::{net::SocketAddr, time::Duration};

use backscroll_gateway::{
    clock::Clock,
    keys::PinnedKeys,
    random::Random,
    server::{Options, serve},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use self::{
    client::{Answer, Ask},
    history::FakeHistory,
    peer::Peer,
};

/// Our own name.
pub(crate) const US: &str = "us.example";
/// What the clock says.
pub(crate) const NOW_MS: u64 = 1_700_000_000_123;

/// All of it, running.
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

    /// Started with other options.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Options)) -> Self {
        let history = FakeHistory::start().await;
        let peer = Peer::new("peer.example:8448", 1);
        let url = format!("http://{}", history.address).parse().unwrap();
        let mut options = Options {
            keys: pinned(&[&peer, &Peer::new("other.example", 2)]),
            clock: Clock::new(|| NOW_MS),
            random: Random::new(|| 0.0),
            // Nothing waits for these unless something is wrong.
            drain_timeout: Duration::from_secs(20),
            ..Options::new(US.parse().unwrap(), url)
        };
        // Tests fail more often than others may.
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

    /// Asks as the peer, signed as it should be.
    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.send(Ask::new("GET", target).signed_by(&self.peer)).await
    }

    /// Asks as the peer, with this body, signed as it should be.
    pub(crate) async fn post(&self, target: &str, body: &str) -> Answer {
        self.send(Ask::new("POST", target).body(body).signed_by(&self.peer)).await
    }
}

/// The content of a file of keys, read.
pub(crate) fn pinned(peers: &[&Peer]) -> PinnedKeys {
    let file = peers.iter().map(|peer| (peer.name.clone(), peer.key_answer()));
    let file = serde_json::Value::Object(file.collect());
    PinnedKeys::from_json(file.to_string().as_bytes()).unwrap()
}

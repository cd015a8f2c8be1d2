//! The real history service, in this process.

use std::{collections::BTreeSet, path::Path, time::Duration};

use backscroll::{
    proto::v1::{
        GetStateRequest, admin_service_client::AdminServiceClient,
        feeder_service_client::FeederServiceClient, history_service_client::HistoryServiceClient,
    },
    server,
    store::Options,
};
use tokio::{
    net::TcpListener,
    sync::oneshot::{self, Sender},
    task::JoinHandle,
};
use tonic::{Code, transport::Channel};

/// A running service.
pub(crate) struct History {
    url: String,
    stop: Sender<()>,
    serving: JoinHandle<()>,
}

impl History {
    /// Starts a service over this store, at an address with a port.
    pub(crate) async fn start(store: &Path, address: &str) -> Self {
        let options = Options { cache_bytes: 32 << 20, ..Options::small(store) };
        let cx = tokio::task::spawn_blocking(move || server::open(&options).unwrap());
        let cx = cx.await.unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let stopped = async { stopped.await.unwrap_or_default() };
        let serving = server::serve(cx, listener, Duration::from_secs(1), stopped);
        let serving = tokio::spawn(async { serving.await.unwrap() });
        Self { url, stop, serving }
    }

    /// Its address, as a URL.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Stops it; the store is closed when this returns.
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap();
    }
}

/// Clients of one service.
pub(crate) struct Clients {
    pub(crate) history: HistoryServiceClient<Channel>,
    pub(crate) admin: AdminServiceClient<Channel>,
    pub(crate) feeder: FeederServiceClient<Channel>,
}

impl Clients {
    /// Connects to a service.
    pub(crate) async fn connect(url: &str) -> Self {
        let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
        Self {
            history: HistoryServiceClient::new(channel.clone()),
            admin: AdminServiceClient::new(channel.clone()),
            feeder: FeederServiceClient::new(channel),
        }
    }

    /// The ids of all state events after an event; `None` if that state is not known.
    pub(crate) async fn state_after(
        &mut self,
        room_id: &str,
        event_id: &str,
    ) -> Option<BTreeSet<String>> {
        let request = GetStateRequest {
            room_id: room_id.to_owned(),
            event_id: event_id.to_owned(),
            ..GetStateRequest::default()
        };
        match self.history.get_state(request).await {
            Ok(page) => {
                let page = page.into_inner();
                assert_eq!(page.next_page_token, "", "the rooms of these tests are small");
                Some(page.entries.into_iter().map(|it| it.event_id).collect())
            }
            Err(status) if status.code() == Code::FailedPrecondition => None,
            Err(status) => panic!("{status}"),
        }
    }
}

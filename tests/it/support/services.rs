//! Both services on real sockets, in this process.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use backscroll::{context::Context, server, store::Options};
use backscroll_gateway::{
    keys::PinnedKeys, metrics::Metrics as GatewayMetrics, server::Options as GatewayOptions,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

/// A running gateway. It ends with the runtime, or when it is told to.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Gateway {
    pub(crate) async fn start(options: GatewayOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(async {
            let stopped = async { drop(stopped.await) };
            backscroll_gateway::server::serve(listener, options, stopped).await.unwrap();
        });
        Self { address, stop, running }
    }
}

/// A running pair of services.
pub(crate) struct Services {
    pub(crate) gateway: SocketAddr,
    pub(crate) history: SocketAddr,
    pub(crate) cx: Arc<Context>,
    pub(crate) gateway_metrics: GatewayMetrics,
    stop: Vec<oneshot::Sender<()>>,
    running: Vec<JoinHandle<()>>,
}

impl Services {
    /// Starts a gateway named `server_name`, and a history service over `data_dir`.
    pub(crate) async fn start(data_dir: &Path, server_name: &str, server_keys: &str) -> Self {
        Self::start_with(data_dir, server_name, server_keys, |_| {}).await
    }

    /// Starts a gateway with changed options.
    pub(crate) async fn start_with(
        data_dir: &Path,
        server_name: &str,
        server_keys: &str,
        change: impl FnOnce(&mut GatewayOptions),
    ) -> Self {
        let options = Options { cache_bytes: 64 << 20, ..Options::small(data_dir) };
        let cx =
            tokio::task::spawn_blocking(move || server::open(&options).unwrap()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let history = listener.local_addr().unwrap();
        let (stop_history, stopped) = oneshot::channel::<()>();
        let serving = server::serve(Arc::clone(&cx), listener, Duration::from_secs(5), async {
            drop(stopped.await);
        });
        let serving = tokio::spawn(async { serving.await.unwrap() });

        let url = format!("http://{history}").parse().unwrap();
        let mut options = GatewayOptions {
            keys: PinnedKeys::from_json(server_keys.as_bytes()).unwrap(),
            ..GatewayOptions::new(server_name.parse().unwrap(), url)
        };
        change(&mut options);
        let gateway_metrics = options.metrics.clone();
        let Gateway { address: gateway, stop: stop_gateway, running: gatewaying } =
            Gateway::start(options).await;
        // The gateway stops first, because it calls the history service.
        let (stop, running) = (vec![stop_gateway, stop_history], vec![gatewaying, serving]);
        Self { gateway, history, cx, gateway_metrics, stop, running }
    }

    /// Stops both; the store is closed when this returns.
    pub(crate) async fn stop(self) {
        for (stop, running) in self.stop.into_iter().zip(self.running) {
            stop.send(()).unwrap();
            running.await.unwrap();
        }
    }
}

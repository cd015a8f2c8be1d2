//! Starting and stopping the service, in these steps:
//!
//! 1. The socket is bound, and probes are answered.
//! 2. The store is opened, and work that a crash interrupted is finished.
//! 3. Health reports SERVING.
//! 4. On the first signal health reports NOT_SERVING. For a notice period everything goes on, so that
//!    clients can notice.
//! 5. No new requests are accepted, streams end, and running requests have a grace period. A second
//!    signal ends the waiting.
//! 6. The store is flushed.

mod gate;
mod health;
mod incoming;
mod recovery;
mod watch;

use std::{
    future::{Future, pending},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use backscroll_tls::{ServerConfig, Watched};
use futures_util::FutureExt as _;
use tokio::{net::TcpListener, time};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tracing::{info, warn};

use self::{
    gate::Gate,
    health::{Health, report},
};
use crate::{
    context::Context,
    ingest,
    metrics::Metrics,
    proto::{
        DESCRIPTORS,
        v1::{
            admin_service_server::AdminServiceServer, feeder_service_server::FeederServiceServer,
            history_service_server::HistoryServiceServer,
            ingest_service_server::IngestServiceServer, key_service_server::KeyServiceServer,
        },
    },
    rpc::{
        AdminHandler, Executor, FeederHandler, HistoryHandler, IngestHandler, KeyHandler,
        MAX_REQUEST_BYTES, Observe, Require,
    },
    store::{Options, Store},
};

/// Opens the store and finishes work that a crash interrupted.
///
/// # Errors
/// The store cannot be opened, or that work fails.
pub fn open(options: &Options) -> anyhow::Result<Arc<Context>> {
    open_counted(options, Metrics::new())
}

/// Like [`open`], with given metrics.
///
/// # Errors
/// The store cannot be opened, or that work fails.
pub fn open_counted(options: &Options, metrics: Metrics) -> anyhow::Result<Arc<Context>> {
    let store =
        Store::open(options).with_context(|| format!("cannot open the store {}", options.place))?;
    let durability = store.durability();
    metrics.store().writes_durable.set(durability.survives_power_cuts().into());
    if durability.survives_power_cuts() {
        info!(durability = durability.words(), "the store is open");
    } else {
        warn!(
            durability = durability.words(),
            "a power cut may leave a store that does not open, and then a backup has to be restored"
        );
    }
    // Processes that share a store take turns at that: see `recovery`.
    let left = if store.is_shared() {
        Vec::new()
    } else {
        ingest::recover(&store).context("cannot finish work that a crash interrupted")?
    };
    let cx = Context::counted(store, metrics);
    left.iter().for_each(|room_id| cx.backlog.add(room_id));
    Ok(Arc::new(cx))
}

/// The callers that are accepted, and the protection of their connections. By default every caller
/// is accepted without TLS; then the network must provide both.
#[derive(Clone, Debug, Default)]
pub struct Callers {
    /// The certificate and key of the service, and the authority of client certificates. `None`: no
    /// TLS.
    pub tls: Option<Arc<Watched<ServerConfig>>>,
    /// The credentials that callers must present.
    pub require: Require,
}

/// The socket, and how calls on it are handled.
#[derive(Debug)]
pub struct Front {
    /// The socket, already bound.
    pub listener: TcpListener,
    /// The callers that are accepted.
    pub callers: Callers,
    /// The metrics that count calls.
    pub metrics: Metrics,
}

/// The periods of stopping.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stopping {
    /// The time that everything goes on after health reports NOT_SERVING.
    pub notice: Duration,
    /// The time that running requests then have to finish.
    pub grace: Duration,
}

/// Serves an open store on a bound listener, without TLS, until `shutdown` resolves. Running requests
/// then have the time `grace`. When this returns, everything is on disk.
///
/// # Errors
/// The socket or the store fails.
pub async fn serve(
    cx: Arc<Context>,
    listener: TcpListener,
    grace: Duration,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let front = Front { listener, callers: Callers::default(), metrics: cx.metrics.clone() };
    let stopping = Stopping { grace, ..Stopping::default() };
    run(front, async { Ok(cx) }, stopping, shutdown, pending()).await
}

/// Answers probes on a bound listener, and serves the store once it is open, until `shutdown`
/// resolves and the service has stopped. `hurry` ends the waiting for running requests. When this
/// returns, everything is on disk.
///
/// # Errors
/// The store cannot be opened, or the socket or the store fails.
pub async fn run(
    Front { listener, callers, metrics }: Front,
    opening: impl Future<Output = anyhow::Result<Arc<Context>>>,
    Stopping { notice, grace }: Stopping,
    shutdown: impl Future<Output = ()>,
    hurry: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    let mut shutdown = pin!(shutdown);
    let mut hurry = pin!(hurry);
    let stopping = CancellationToken::new();
    let (health, health_service) = tonic_health::server::health_reporter();
    report(&health, Health::Opening).await;
    let gate = Gate::new(
        Routes::new(health_service)
            .add_service(reflection().build_v1()?)
            // Most clients still use this version.
            .add_service(reflection().build_v1alpha()?),
    );
    let observe = Observe::new(metrics, &[DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET]);
    let mut router = Server::builder().layer(observe).layer(callers.require);
    let router = router.add_routes(gate.clone().routes());
    let stopped = stopping.clone().cancelled_owned();
    let mut server = if let Some(tls) = callers.tls {
        router.serve_with_incoming_shutdown(incoming::with_tls(listener, tls), stopped).boxed()
    } else {
        // Responses are written as a whole; Nagle's algorithm would only delay them.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        router.serve_with_incoming_shutdown(incoming, stopped).boxed()
    };
    info!(%address, "listening; opening the store");
    let cx = tokio::select! {
        ended = &mut server => return Ok(ended?),
        opened = opening => opened?,
        () = &mut shutdown => {
            info!("stopped before the store was open");
            return Ok(());
        }
    };
    gate.open(handlers(&cx, &stopping));
    report(&health, Health::Serving).await;
    info!(%address, "serving");
    let failed = tokio::select! {
        ended = &mut server => return Ok(ended?),
        () = watch::in_background(&cx, &health) => true,
        () = shutdown => false,
    };
    report(&health, if failed { Health::Failed } else { Health::Stopping }).await;
    info!("stopping");
    let stop = async {
        if !failed && !notice.is_zero() {
            tokio::select! {
                ended = &mut server => return Ok(ended?),
                () = time::sleep(notice) => {}
            }
        }
        stopping.cancel();
        match time::timeout(grace, &mut server).await {
            Ok(ended) => ended?,
            Err(_) => warn!("requests were still running when the grace period ended"),
        }
        anyhow::Ok(())
    };
    tokio::select! {
        stopped = stop => stopped?,
        () = &mut hurry => warn!("second signal: not waiting any longer"),
    }
    ensure!(
        !failed,
        "a write to the store failed: start again; everything that was acknowledged is on disk"
    );
    tokio::task::spawn_blocking(move || cx.store.flush()).await??;
    info!("stopped; everything is on disk");
    Ok(())
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// The services that need the store.
fn handlers(cx: &Arc<Context>, stopping: &CancellationToken) -> Routes {
    let executor = Executor::new(cx.metrics.clone(), cx.store.is_shared());
    let history = HistoryHandler::new(Arc::clone(cx), executor.clone());
    let ingest = IngestHandler::new(Arc::clone(cx), executor.clone(), stopping.clone());
    let keys = KeyHandler::new(Arc::clone(cx), executor.clone());
    let feeder = FeederHandler::new(Arc::clone(cx), executor.clone(), stopping.clone());
    let admin = AdminHandler::new(Arc::clone(cx), executor, stopping.clone());
    let history = HistoryServiceServer::new(history);
    let ingest = IngestServiceServer::new(ingest);
    Routes::new(history.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(ingest.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(FeederServiceServer::new(feeder))
        .add_service(KeyServiceServer::new(keys))
        .add_service(AdminServiceServer::new(admin))
}

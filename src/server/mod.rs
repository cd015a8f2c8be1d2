//! Starting and stopping the service. In order: the socket is there and probes are answered; the
//! store is opened and what a crash cut off is finished; health says SERVING; on the signal it
//! says NOT_SERVING, and for as long as others need to notice everything goes on; then nothing new
//! is taken, streams end, what is under way has a grace period; everything is flushed.

mod gate;
mod health;
mod incoming;
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
    health::{State, say},
};
use crate::{
    context::Context,
    ingest,
    metrics::Metrics,
    proto::{
        DESCRIPTORS,
        v1::{
            admin_service_server::AdminServiceServer, history_service_server::HistoryServiceServer,
            ingest_service_server::IngestServiceServer, key_service_server::KeyServiceServer,
        },
    },
    rpc::{
        AdminHandler, Executor, HistoryHandler, IngestHandler, KeyHandler, MAX_REQUEST_BYTES,
        Observe, Require,
    },
    store::{Options, Store},
};

/// Opens the store and finishes what a crash cut off.
///
/// # Errors
/// When the store cannot be opened.
pub fn open(options: &Options) -> anyhow::Result<Arc<Context>> {
    open_counted(options, Metrics::new())
}

/// Opens the store; counts go on where they are.
///
/// # Errors
/// When the store cannot be opened.
pub fn open_counted(options: &Options, metrics: Metrics) -> anyhow::Result<Arc<Context>> {
    let store = Store::open(options)
        .with_context(|| format!("cannot open the store in {}", options.data_dir.display()))?;
    let durability = store.durability();
    metrics.store().writes_durable.set(durability.is_of_each_write().into());
    if durability.is_of_each_write() {
        info!(durability = durability.words(), "the store is open");
    } else {
        warn!(
            durability = durability.words(),
            "the file system does not make each write durable by itself: a power cut may leave a \
             store that does not open, and then a backup has to be restored"
        );
    }
    let left = ingest::recover(&store).context("cannot finish what a crash cut off")?;
    let cx = Context::counted(store, metrics);
    left.iter().for_each(|room_id| cx.backlog.add(room_id));
    Ok(Arc::new(cx))
}

/// Who may call, and how connections are protected. By default everybody, and not at all: then the
/// network must see to both.
#[derive(Clone, Debug, Default)]
pub struct Callers {
    /// Certificate and key, and who signs those of callers.
    pub tls: Option<Arc<Watched<ServerConfig>>>,
    /// What callers must show.
    pub require: Require,
}

/// The side that callers see.
#[derive(Debug)]
pub struct Front {
    /// The socket, bound.
    pub listener: TcpListener,
    /// Who may call.
    pub callers: Callers,
    /// Where calls are counted.
    pub metrics: Metrics,
}

/// How the service stops.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stopping {
    /// How long everything goes on after health has said NOT_SERVING.
    pub notice: Duration,
    /// How long requests under way may take to finish after that.
    pub grace: Duration,
}

/// Serves an open store to everybody on a bound listener until `shutdown` resolves, then for at most `grace`
/// longer. When this returns, everything is on disk.
///
/// # Errors
/// When the socket or the disk fails.
pub async fn serve(
    cx: Arc<Context>,
    listener: TcpListener,
    grace: Duration,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let front = Front { listener, callers: Callers::default(), metrics: cx.metrics.clone() };
    let stopping = Stopping { grace, ..Stopping::default() };
    run(front, async { Ok(cx) }, stopping, (shutdown, pending())).await
}

/// Answers probes on a bound listener, and serves the store once it is open, until the first
/// signal and the stop that follows; the second signal cuts the waiting short. When this returns,
/// everything is on disk.
///
/// # Errors
/// When the store cannot be opened, when the socket or the disk fails.
pub async fn run(
    Front { listener, callers, metrics }: Front,
    opening: impl Future<Output = anyhow::Result<Arc<Context>>>,
    Stopping { notice, grace }: Stopping,
    (shutdown, hurry): (impl Future<Output = ()>, impl Future<Output = ()>),
) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    let (mut shutdown, mut hurry) = (pin!(shutdown), pin!(hurry));
    let stopping = CancellationToken::new();
    let (health, health_service) = tonic_health::server::health_reporter();
    say(&health, State::Opening).await;
    let gate = Gate::new(
        Routes::new(health_service)
            .add_service(reflection().build_v1()?)
            // What most clients in the field still ask for.
            .add_service(reflection().build_v1alpha()?),
    );
    let observe = Observe::new(metrics, &[DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET]);
    let mut router = Server::builder().layer(observe).layer(callers.require);
    let router = router.add_routes(gate.clone().routes());
    let stopped = stopping.clone().cancelled_owned();
    let mut server = if let Some(tls) = callers.tls {
        router.serve_with_incoming_shutdown(incoming::with_tls(listener, tls), stopped).boxed()
    } else {
        // Answers are written whole; waiting for more to send would only delay them.
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
    say(&health, State::Serving).await;
    info!(%address, "serving");
    let failed = tokio::select! {
        ended = &mut server => return Ok(ended?),
        () = watch::watch(Arc::clone(&cx), health.clone()) => true,
        _ = watch::measure(Arc::clone(&cx)) => true,
        _ = watch::work_off(Arc::clone(&cx)) => true,
        () = shutdown => false,
    };
    say(&health, if failed { State::Failed } else { State::Stopping }).await;
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
            Err(_) => warn!("requests were still under way when the grace period ended"),
        }
        anyhow::Ok(())
    };
    tokio::select! {
        stopped = stop => stopped?,
        () = &mut hurry => warn!("a second signal: not waiting any longer"),
    }
    ensure!(!failed, "a write to the store failed: start again, what was acknowledged is there");
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
    let executor = Executor::new(cx.metrics.clone());
    let history = HistoryHandler::new(Arc::clone(cx), executor.clone());
    let ingest = IngestHandler::new(Arc::clone(cx), executor.clone(), stopping.clone());
    let keys = KeyHandler::new(Arc::clone(cx), executor.clone());
    let admin = AdminHandler::new(Arc::clone(cx), executor, stopping.clone());
    let history = HistoryServiceServer::new(history);
    let ingest = IngestServiceServer::new(ingest);
    Routes::new(history.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(ingest.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(KeyServiceServer::new(keys))
        .add_service(AdminServiceServer::new(admin))
}

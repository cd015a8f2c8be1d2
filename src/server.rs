//! Starting and stopping the service. In order: the store is opened and what a crash cut off is
//! finished; health says SERVING; on the signal it says NOT_SERVING, streams end, what is under
//! way has a grace period; everything is flushed.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use backscroll_tls::{ServerConfig, Watched};
use futures_util::FutureExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::transport::{Server, server::TcpIncoming};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{error, info, warn};

use crate::{
    context::Context,
    incoming, ingest,
    proto::{
        DESCRIPTORS,
        v1::{
            history_service_server::HistoryServiceServer,
            ingest_service_server::IngestServiceServer, key_service_server::KeyServiceServer,
        },
    },
    rpc::{HistoryDoor, IngestDoor, KeyDoor, MAX_REQUEST_BYTES, Require},
    store::{Options, Store},
};

/// Opens the store and finishes what a crash cut off.
///
/// # Errors
/// When the store cannot be opened.
pub fn open(options: &Options) -> anyhow::Result<Arc<Context>> {
    let store = Store::open(options)
        .with_context(|| format!("cannot open the store in {}", options.data_dir.display()))?;
    ingest::recover(&store).context("cannot finish what a crash cut off")?;
    Ok(Arc::new(Context::new(store)))
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

/// [`serve_callers`], to everybody.
///
/// # Errors
/// When the socket or the disk fails.
pub async fn serve(
    cx: Arc<Context>,
    listener: TcpListener,
    grace: Duration,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    serve_callers(cx, (listener, Callers::default()), grace, shutdown).await
}

/// Serves on a bound listener until `shutdown` resolves, then for at most `grace` longer. When
/// this returns, everything is on disk.
///
/// # Errors
/// When the socket or the disk fails.
pub async fn serve_callers(
    cx: Arc<Context>,
    (listener, callers): (TcpListener, Callers),
    grace: Duration,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    let stopping = CancellationToken::new();
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let history = HistoryServiceServer::new(HistoryDoor::new(Arc::clone(&cx)));
    let ingest = IngestServiceServer::new(IngestDoor::new(Arc::clone(&cx), stopping.clone()));
    let keys = KeyServiceServer::new(KeyDoor::new(Arc::clone(&cx)));
    health.set_serving::<HistoryServiceServer<HistoryDoor>>().await;
    health.set_serving::<IngestServiceServer<IngestDoor>>().await;
    health.set_serving::<KeyServiceServer<KeyDoor>>().await;
    let router = Server::builder()
        .layer(callers.require)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        // What most clients in the field still ask for.
        .add_service(reflection().build_v1alpha()?)
        .add_service(history.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(ingest.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(keys);
    let stopped = stopping.clone().cancelled_owned();
    let mut server = if let Some(tls) = callers.tls {
        router.serve_with_incoming_shutdown(incoming::with_tls(listener, tls), stopped).boxed()
    } else {
        // Answers are written whole; waiting for more to send would only delay them.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        router.serve_with_incoming_shutdown(incoming, stopped).boxed()
    };
    info!(%address, "serving");
    let mut failed = false;
    let watched = watch(Arc::clone(&cx), health.clone());
    let shutdown = async {
        tokio::select! {
            () = shutdown => false,
            () = watched => true,
        }
    };
    tokio::select! {
        ended = &mut server => ended?,
        store_failed = shutdown => {
            failed = store_failed;
            info!("stopping");
            health.set_not_serving::<HistoryServiceServer<HistoryDoor>>().await;
            health.set_not_serving::<IngestServiceServer<IngestDoor>>().await;
            health.set_not_serving::<KeyServiceServer<KeyDoor>>().await;
            health.set_service_status("", ServingStatus::NotServing).await;
            stopping.cancel();
            match tokio::time::timeout(grace, server).await {
                Ok(ended) => ended?,
                Err(_) => warn!("requests were still under way when the grace period ended"),
            }
        }
    }
    tokio::task::spawn_blocking(move || cx.store.flush()).await??;
    ensure!(!failed, "a write to the store failed: start again, what was acknowledged is there");
    info!("stopped; everything is on disk");
    Ok(())
}

/// How often the store is asked how it is.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Takes the ingest service out of service while there is no space to write to. Returns when the
/// store has failed.
async fn watch(cx: Arc<Context>, health: HealthReporter) {
    let mut had_space = true;
    loop {
        let asked = Arc::clone(&cx);
        let space = tokio::task::spawn_blocking(move || asked.store.check_space()).await;
        let has_space = match space {
            Ok(Ok(())) => true,
            Ok(Err(full)) => {
                if had_space {
                    error!("{full}");
                }
                false
            }
            Err(_) => false,
        };
        if has_space && !had_space {
            info!("there is space again: events are taken");
        }
        if has_space != had_space {
            let ingest = |it| health.set_service_status(INGEST, it);
            if has_space {
                ingest(ServingStatus::Serving).await;
            } else {
                ingest(ServingStatus::NotServing).await;
            }
        }
        had_space = has_space;
        if cx.store.has_failed() {
            error!("a write to the store failed; stopping, since only opening it again helps");
            return;
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// The ingest service's name in health checks.
const INGEST: &str = <IngestServiceServer<IngestDoor> as NamedService>::NAME;

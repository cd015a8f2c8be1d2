//! Starting and stopping the service. In order: the store is opened and what a crash cut off is
//! finished; health says SERVING; on the signal it says NOT_SERVING, streams end, what is under
//! way has a grace period; everything is flushed.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};
use tracing::{info, warn};

use crate::{
    context::Context,
    ingest,
    proto::{
        DESCRIPTORS,
        v1::{
            history_service_server::HistoryServiceServer,
            ingest_service_server::IngestServiceServer, key_service_server::KeyServiceServer,
        },
    },
    rpc::{HistoryDoor, IngestDoor, KeyDoor, MAX_REQUEST_BYTES},
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

/// Serves on a bound listener until `shutdown` resolves, then for at most `grace` longer. When
/// this returns, everything is on disk.
///
/// # Errors
/// When the socket or the disk fails.
pub async fn serve(
    cx: Arc<Context>,
    listener: TcpListener,
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
    // Answers are written whole; waiting for more to send would only delay them.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        // What most clients in the field still ask for.
        .add_service(reflection().build_v1alpha()?)
        .add_service(history.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(ingest.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(keys)
        .serve_with_incoming_shutdown(incoming, stopping.clone().cancelled_owned());
    tokio::pin!(server);
    info!(%address, "serving");
    tokio::select! {
        ended = &mut server => ended?,
        () = shutdown => {
            info!("stopping");
            health.set_not_serving::<HistoryServiceServer<HistoryDoor>>().await;
            health.set_not_serving::<IngestServiceServer<IngestDoor>>().await;
            health.set_not_serving::<KeyServiceServer<KeyDoor>>().await;
            health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
            stopping.cancel();
            match tokio::time::timeout(grace, server).await {
                Ok(ended) => ended?,
                Err(_) => warn!("requests were still under way when the grace period ended"),
            }
        }
    }
    tokio::task::spawn_blocking(move || cx.store.flush()).await??;
    info!("stopped; everything is on disk");
    Ok(())
}

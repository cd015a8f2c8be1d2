//! Finishes what was interrupted, in a store that several processes share: one of them does it at a
//! time. Each does so after its start, and from time to time, since a process that has ended may not
//! be started again.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::time;
use tracing::{error, warn};

use crate::{
    context::Context,
    ingest,
    store::{Leased, StoreError},
};

/// The time between two looks for what was interrupted.
const RECOVER_EVERY: Duration = Duration::from_mins(5);
/// The time between two tries to get the lease.
const TRY_EVERY: Duration = Duration::from_secs(2);

/// Looks for interrupted work for as long as the service runs. Does nothing if no other process may have
/// the store open: then that was done when it was opened.
pub(super) async fn recover_again(cx: Arc<Context>) -> ! {
    if !cx.store.is_shared() {
        pending::<()>().await;
    }
    loop {
        let working = Arc::clone(&cx);
        let recovered = tokio::task::spawn_blocking(move || recover(&working)).await;
        let next = match recovered {
            Ok(Ok(true)) => RECOVER_EVERY,
            Ok(Ok(false)) => TRY_EVERY,
            Ok(Err(failure)) => {
                warn!(%failure, "what was interrupted could not be finished");
                TRY_EVERY
            }
            Err(failure) => {
                cx.metrics.panicked();
                error!(%failure, "what was interrupted could not be finished");
                RECOVER_EVERY
            }
        };
        time::sleep(next).await;
    }
}

/// Finishes what was interrupted, unless another process is doing that. Returns whether it was done.
fn recover(cx: &Context) -> Result<bool, StoreError> {
    let Some(lease) = cx.store.try_lease(Leased::Recovery)? else { return Ok(false) };
    let left = ingest::recover(&cx.store);
    cx.store.release(&lease);
    left?.iter().for_each(|room_id| cx.backlog.add(room_id));
    Ok(true)
}

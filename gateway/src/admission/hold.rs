//! What the answer to an authenticated request holds until it has been written to its client.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::response::Response;
use tokio::{runtime::Handle, time};

use crate::{
    client_address::ClientAddress,
    limits::{AnswerOwner, Permit, Protection, Share},
    server_name::ServerName,
};

/// How long a server has one permit less after it has not read an answer.
const NOT_READ_PENALTY: Duration = Duration::from_secs(30);

/// Holds the server's permit and protects the connection, until the answer has been written.
#[derive(Debug)]
pub(crate) struct AnswerHold {
    pub(crate) origin: ServerName,
    permit: Permit,
    _connection: Option<Protection<ClientAddress>>,
}

/// Carries an [`AnswerHold`] as an extension of a response. Extensions must be cloneable; the hold
/// can be taken once.
#[derive(Clone, Debug)]
struct HoldExtension(Arc<Mutex<Option<AnswerHold>>>);

impl AnswerHold {
    pub(super) fn new(
        origin: ServerName,
        mut permit: Permit,
        connection: Option<Protection<ClientAddress>>,
    ) -> Self {
        permit.answered();
        Self { origin, permit, _connection: connection }
    }

    pub(super) fn attach_to(self, mut response: Response) -> Response {
        let extension = HoldExtension(Arc::new(Mutex::new(Some(self))));
        response.extensions_mut().insert(extension);
        response
    }

    /// Notes that the answer was evicted, because its client did not read it. The server gets its
    /// permit back only after [`NOT_READ_PENALTY`], so that it cannot have answer after answer made
    /// that it does not read.
    pub(crate) fn was_not_read(self) {
        let permit = self.permit;
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(async move {
                time::sleep(NOT_READ_PENALTY).await;
                drop(permit);
            }));
        }
    }
}

/// Takes the hold from a response. `None` if it answers no authenticated request.
pub(crate) fn take_hold(response: &mut Response) -> Option<AnswerHold> {
    let HoldExtension(hold) = response.extensions_mut().remove()?;
    hold.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Marks an answer that is sent while it is received: an extension of the response. Only a part of it
/// is in memory at a time.
#[derive(Clone, Debug)]
pub(crate) struct StreamedAnswer {
    /// The share that counts it already. `None`: it counts as an answer of [`Self::BYTES`].
    pub(crate) share: Option<Arc<Share<AnswerOwner>>>,
    /// What else it occupies until it has been written.
    _occupied: Arc<dyn Debug + Send + Sync>,
}

impl StreamedAnswer {
    /// The most memory that such an answer takes, in bytes.
    pub(crate) const BYTES: usize = 128 * 1024;

    pub(crate) fn new(
        share: Option<Arc<Share<AnswerOwner>>>,
        occupied: impl Debug + Send + Sync + 'static,
    ) -> Self {
        Self { share, _occupied: Arc::new(occupied) }
    }

    pub(crate) fn attach_to(self, mut response: Response) -> Response {
        response.extensions_mut().insert(self);
        response
    }
}

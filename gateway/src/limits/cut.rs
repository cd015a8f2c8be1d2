//! How what has to give way is ended: one stream of an HTTP/2 connection by itself, since others may
//! ask on the same connection, or else the connection.

use std::sync::{Arc, Weak};

use tokio_util::sync::CancellationToken;

tokio::task_local! {
    /// Ends the stream that the task answers.
    static STREAM: Weak<CancellationToken>;
}

/// Ends a request and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    stream: Weak<CancellationToken>,
    connection: CancellationToken,
}

impl Cut {
    /// Ends a whole connection, or tells whoever waits for this token.
    pub(crate) fn of(connection: CancellationToken) -> Self {
        Self { stream: Weak::new(), connection }
    }

    /// Ends the stream that is answered here; in HTTP/1.1, which has none, the connection.
    pub(crate) fn of_request(connection: CancellationToken) -> Self {
        let stream = STREAM.try_with(Weak::clone).unwrap_or_default();
        Self { stream, connection }
    }

    /// A stream that has handed over all it had can be ended no more: what is left of it waits for
    /// a connection that takes nothing.
    pub(crate) fn cut(&self) {
        match self.stream.upgrade() {
            Some(stream) => stream.cancel(),
            None => self.connection.cancel(),
        }
    }
}

/// Runs what answers one stream, until it is cut. Dropped, it resets its stream.
pub(crate) async fn run_stream(work: impl Future) {
    let stream = Arc::new(CancellationToken::new());
    let working = async {
        tokio::select! {
            biased;
            () = stream.cancelled() => {}
            _ended = work => {}
        }
    };
    STREAM.scope(Arc::downgrade(&stream), working).await;
}

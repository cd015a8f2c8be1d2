//! How a request, an answer or a connection is evicted: in HTTP/2 the stream is reset by itself,
//! since other requests may use the same connection; in HTTP/1.1 the connection is closed.

use std::sync::{Arc, Weak};

use tokio_util::sync::CancellationToken;

tokio::task_local! {
    /// Ends the HTTP/2 stream that the current task answers.
    static STREAM: Weak<CancellationToken>;
}

/// Evicts a request and its answer, or a connection.
#[derive(Clone, Debug)]
pub(crate) struct EvictionHandle {
    /// Empty if there is no stream, or once the stream's task has ended.
    stream: Weak<CancellationToken>,
    connection: CancellationToken,
}

impl EvictionHandle {
    /// A handle that cancels a token, such as the one that ends a connection.
    pub(crate) fn new(connection: CancellationToken) -> Self {
        Self { stream: Weak::new(), connection }
    }

    /// A handle that ends the HTTP/2 stream of the current task; without one, the connection.
    pub(crate) fn of_request(connection: CancellationToken) -> Self {
        let stream = STREAM.try_with(Weak::clone).unwrap_or_default();
        Self { stream, connection }
    }

    /// Evicts. If the stream has handed over its whole answer, the connection is closed: what is
    /// left waits for a client that reads nothing.
    pub(crate) fn evict(&self) {
        match self.stream.upgrade() {
            Some(stream) => stream.cancel(),
            None => self.connection.cancel(),
        }
    }
}

/// Runs the future that answers one HTTP/2 stream, until it is evicted. Dropping the future resets
/// the stream.
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

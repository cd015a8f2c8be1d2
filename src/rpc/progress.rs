//! Streams of messages to a caller: the progress of long jobs, and acknowledgements.

use std::{future::Future, ops::ControlFlow, panic::AssertUnwindSafe};

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::Instrument as _;

use super::executor::Executor;

/// Progress messages that may wait for a slow reader.
const MAX_UNREAD: usize = 16;

/// The messages of a stream, on the way to the caller.
pub(super) type Messages<T> = ReceiverStream<Result<T, Status>>;
/// The sending side of [`Messages`].
pub(super) type Sender<T> = mpsc::Sender<Result<T, Status>>;

/// Sends the progress of a long job to its caller.
pub(super) struct Progress<T>(Sender<T>);

impl<T> Progress<T> {
    #[cfg(test)]
    pub(super) fn new(sender: Sender<T>) -> Self {
        Self(sender)
    }

    /// Sends a message; waits while too many are unread. Breaks if the caller has left.
    pub(super) fn send(&self, message: T) -> ControlFlow<()> {
        match self.0.blocking_send(Ok(message)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_closed) => ControlFlow::Break(()),
        }
    }

    /// Whether the caller has left.
    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Executor {
    /// Runs a long job on a blocking thread. The result of the job is its last message. A stream
    /// that ends with OK says that the job has ended as it should.
    ///
    /// A long job has no permit and no deadline: permits are for requests that end soon. The job
    /// ends when its work is done, when the service stops, or, if it chooses to, when its caller
    /// leaves.
    pub(super) fn stream<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Progress<T>) -> Result<Option<T>, Status> + Send + 'static,
    ) -> Messages<T> {
        let executor = self.clone();
        self.serve(MAX_UNREAD, async move |sender: Sender<T>| {
            let progress = Progress(sender.clone());
            if let Some(last) = executor.blocking(move || job(&progress)).await?? {
                // Sending fails only if the caller has left.
                drop(sender.send(Ok(last)).await);
            }
            Ok(())
        })
    }

    /// Runs an async job that sends messages to its caller, of which `max_unread` may wait. If the
    /// job fails, its error is the last message.
    pub(super) fn serve<T, F>(
        &self,
        max_unread: usize,
        job: impl FnOnce(Sender<T>) -> F,
    ) -> Messages<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (sender, messages) = mpsc::channel(max_unread);
        let job = AssertUnwindSafe(job(sender.clone()));
        let executor = self.clone();
        let serving = async move {
            let ended = job.catch_unwind().await;
            if let Err(status) = ended.unwrap_or_else(|_| Err(executor.failed("a panic"))) {
                // Sending fails only if the caller has left.
                drop(sender.send(Err(status)).await);
            }
        };
        tokio::spawn(serving.in_current_span());
        ReceiverStream::new(messages)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use tokio_stream::StreamExt as _;
    use tonic::Code;

    use super::*;
    use crate::{metrics::Metrics, rpc::executor::shown};

    /// All messages that a caller gets.
    async fn received(messages: Messages<u32>) -> Vec<Result<u32, Code>> {
        let all = messages.map(|it| it.map_err(|status| status.code())).collect();
        timeout(Duration::from_secs(60), all).await.expect("the stream ends")
    }

    #[tokio::test]
    async fn a_job_that_panics_ends_with_internal_and_is_counted() {
        let metrics = Metrics::new();
        let executor = Executor::new(metrics.clone(), false);
        let messages = executor.stream(|progress| {
            assert!(progress.send(1).is_continue());
            panic!("this is part of the test");
        });
        assert_eq!(received(messages).await, [Ok(1), Err(Code::Internal)]);
        assert_eq!(shown(&metrics, "backscroll_panics_total"), "1");
        let messages = executor.serve(1, async |sender: Sender<u32>| {
            sender.send(Ok(1)).await.unwrap();
            panic!("this is part of the test");
        });
        assert_eq!(received(messages).await, [Ok(1), Err(Code::Internal)]);
        assert_eq!(shown(&metrics, "backscroll_panics_total"), "2");
    }

    #[tokio::test]
    async fn the_last_message_is_the_result_of_the_job() {
        let metrics = Metrics::new();
        let executor = Executor::new(metrics.clone(), false);
        assert_eq!(received(executor.stream(|_| Ok(Some(7)))).await, [Ok(7)]);
        assert_eq!(received(executor.stream(|_| Ok(None))).await, []);
        let failed = executor.stream(|_| Err(Status::data_loss("")));
        assert_eq!(received(failed).await, [Err(Code::DataLoss)]);
        assert_eq!(shown(&metrics, "backscroll_panics_total"), "0");
    }
}

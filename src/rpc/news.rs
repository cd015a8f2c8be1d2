//! Work that takes its time off the async threads, and tells its caller how far it has come.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// News that may wait for a slow reader.
const MAX_UNREAD: usize = 16;

/// What a caller hears of work under way.
pub(super) type News<T> = ReceiverStream<Result<T, Status>>;

/// Runs work off the async threads; what it ends with is the last of its news.
pub(super) fn run<T: Send + 'static>(
    work: impl FnOnce(&mpsc::Sender<Result<T, Status>>) -> Result<Option<T>, Status> + Send + 'static,
) -> News<T> {
    let (to_caller, news) = mpsc::channel(MAX_UNREAD);
    tokio::task::spawn_blocking(move || {
        let last = work(&to_caller).transpose();
        // If the caller has gone, there is nobody to tell.
        last.map(|it| drop(to_caller.blocking_send(it)))
    });
    ReceiverStream::new(news)
}

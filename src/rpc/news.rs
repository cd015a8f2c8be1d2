//! Work that takes its time off the async threads, and tells its caller how far it has come.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::Instrument as _;

use super::blocking;
use crate::metrics::Metrics;

/// News that may wait for a slow reader.
const MAX_UNREAD: usize = 16;

/// What a caller hears of work under way.
pub(super) type News<T> = ReceiverStream<Result<T, Status>>;

/// Runs work off the async threads; what it ends with is the last of its news. If that is a panic,
/// the caller hears INTERNAL: a stream that ends with OK says that the work has ended as it should.
pub(super) fn run<T: Send + 'static>(
    metrics: &Metrics,
    work: impl FnOnce(&mpsc::Sender<Result<T, Status>>) -> Result<Option<T>, Status> + Send + 'static,
) -> News<T> {
    let (to_caller, news) = mpsc::channel(MAX_UNREAD);
    let (metrics, telling) = (metrics.clone(), to_caller.clone());
    let running = async move {
        let ended = blocking(&metrics, move || work(&telling)).await;
        if let Some(last) = ended.and_then(|it| it).transpose() {
            // If the caller has gone, there is nobody to tell.
            drop(to_caller.send(last).await);
        }
    };
    tokio::spawn(running.in_current_span());
    ReceiverStream::new(news)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use tokio_stream::StreamExt as _;
    use tonic::Code;

    use super::*;

    /// All that a caller hears.
    async fn heard(news: News<u32>) -> Vec<Result<u32, Code>> {
        let all = news.map(|it| it.map_err(|status| status.code())).collect();
        timeout(Duration::from_secs(60), all).await.expect("the stream ends")
    }

    /// What `/metrics` says of panics.
    fn panics(metrics: &Metrics) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics.registry()).unwrap();
        text.lines().find(|it| it.starts_with("backscroll_panics_total")).unwrap().to_owned()
    }

    #[tokio::test]
    async fn work_that_panics_ends_with_internal_and_is_counted() {
        let metrics = Metrics::new();
        let news = run(&metrics, |news| {
            news.blocking_send(Ok(1)).unwrap();
            panic!("this is part of the test");
        });
        assert_eq!(heard(news).await, [Ok(1), Err(Code::Internal)]);
        assert_eq!(panics(&metrics), "backscroll_panics_total 1");
    }

    #[tokio::test]
    async fn the_last_of_the_news_is_what_the_work_ends_with() {
        let metrics = Metrics::new();
        assert_eq!(heard(run(&metrics, |_| Ok(Some(7)))).await, [Ok(7)]);
        assert_eq!(heard(run(&metrics, |_| Ok(None))).await, []);
        let failed = run(&metrics, |_| Err(Status::data_loss("")));
        assert_eq!(heard(failed).await, [Err(Code::DataLoss)]);
        assert_eq!(panics(&metrics), "backscroll_panics_total 0");
    }
}

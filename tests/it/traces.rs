//! Spans are sent to the collector of `--otlp-endpoint`, as part of the trace of their request.

use std::time::Duration;

use backscroll::proto::v1::{ListRoomsRequest, history_service_client::HistoryServiceClient};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::Span,
};
use tokio::{net::TcpListener, sync::mpsc, time};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use backscroll_testkit::process::Ended;

use crate::support::process::Process;

struct Collector(mpsc::UnboundedSender<Span>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources.flat_map(|it| it.scope_spans).flat_map(|it| it.spans);
        spans.for_each(|span| self.0.send(span).unwrap());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_of_its_trace() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (collected, mut spans) = mpsc::unbounded_channel();
    let collector = Server::builder().add_service(TraceServiceServer::new(Collector(collected)));
    tokio::spawn(collector.serve_with_incoming(TcpListenerStream::new(listener)));

    let dir = tempfile::tempdir().unwrap();
    let flags = ["--reserved-mib", "0", "--otlp-endpoint", &endpoint];
    let service = Process::start(&dir.path().join("data"), &flags);
    let mut history = HistoryServiceClient::connect(service.url()).await.unwrap();
    let mut request = Request::new(ListRoomsRequest::default());
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    history.list_rooms(request).await.unwrap();
    // Stopping sends the remaining spans.
    let Ended { code, log } = tokio::task::spawn_blocking(|| service.stop()).await.unwrap();
    assert_eq!(code, Some(0), "{log}");

    let is_ours = |span: &Span| span.trace_id.starts_with(&[0x0a, 0xf7, 0x65, 0x19]);
    let span = time::timeout(Duration::from_secs(20), async {
        loop {
            let span = spans.recv().await.unwrap();
            if is_ours(&span) {
                return span;
            }
        }
    });
    let span = span.await.expect("a span");
    assert_eq!(span.parent_span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
    let has = |text: &str| format!("{:?}", span.attributes).contains(text);
    assert!(has("ListRooms"), "{span:?}");
}

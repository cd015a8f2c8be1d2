//! The door of `AdminService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{blocking, status, wire};
use crate::{
    context::Context,
    proto::v1::{self as pb, admin_service_server::AdminService},
    query,
};

/// Answers `AdminService`.
pub struct AdminDoor {
    cx: Arc<Context>,
}

impl AdminDoor {
    /// Over a context.
    #[must_use]
    pub fn new(cx: Arc<Context>) -> Self {
        Self { cx }
    }
}

#[tonic::async_trait]
impl AdminService for AdminDoor {
    async fn stats(
        &self,
        _: Request<pb::StatsRequest>,
    ) -> Result<Response<pb::StatsResponse>, Status> {
        let cx = Arc::clone(&self.cx);
        let stats = blocking(&self.cx.metrics, move || query::stats(&cx)).await?;
        stats.map(|it| Response::new(wire::stats_response(it))).map_err(status::of_query)
    }
}

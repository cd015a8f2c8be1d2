//! The messages of `FeederService`, and the bounds that requests set for the feeder.

use std::time::Duration;

use tonic::Status;

use super::brief;
use crate::{
    context::feeder::{FeederBounds, FeederStatus, TickReport},
    proto::v1::{self as pb, ErrorReason, feed_request::Report},
    rpc::status,
};

/// The greatest lag if a request with bounds does not say.
const DEFAULT_LAG: Duration = Duration::from_secs(5);
/// The longest time that a request waits.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The report in a request of `Feed`.
///
/// # Errors
/// `FEED_INVALID` if there is none.
pub(in crate::rpc) fn feed_report(request: pb::FeedRequest) -> Result<Report, Status> {
    let missing = || status::refuse(ErrorReason::FeedInvalid, "the request has no report");
    let report = request.report.ok_or_else(missing)?;
    Ok(match report {
        Report::TickEnded(pb::TickEnded { ready, not_ready_description }) => {
            let not_ready_description = brief(not_ready_description);
            Report::TickEnded(pb::TickEnded { ready, not_ready_description })
        }
        other => other,
    })
}

/// The bounds of a request; `None` if it has none. A negative duration counts as zero.
pub(in crate::rpc) fn feeder_bounds(bounds: Option<pb::FeederBounds>) -> Option<FeederBounds> {
    let pb::FeederBounds { max_lag, max_wait } = bounds?;
    let duration = |it| Duration::try_from(it).unwrap_or_default();
    Some(FeederBounds {
        max_lag: max_lag.map_or(DEFAULT_LAG, duration),
        max_wait: max_wait.map_or(Duration::ZERO, duration).min(MAX_WAIT),
    })
}

pub(in crate::rpc) fn get_feeder_response(status: Option<FeederStatus>) -> pb::GetFeederResponse {
    let Some(FeederStatus { feeder_name, report, lag }) = status else {
        return pb::GetFeederResponse::default();
    };
    let TickReport { is_ready, not_ready_description } = report;
    let lag = lag.map(|it| it.try_into().expect("a lag is shorter than 290 billion years"));
    pb::GetFeederResponse { feeder_name, ready: is_ready, not_ready_description, lag }
}

//! The messages of CompareAnswers.

use bytes::Bytes;
use tonic::Status;

use super::{backfill, feeder_bounds, get_missing_events};
use crate::{
    comparison::DifferenceReason,
    context::feeder::FeederBounds,
    proto::v1::{self as pb, ErrorReason, compare_answers_request::Question as ComparedRequest},
    query::{Asker, CompareAnswers, ComparedQuestion, Comparison, EventDifference},
    rpc::status,
};

pub(in crate::rpc) fn compare_answers(
    request: pb::CompareAnswersRequest,
) -> Result<CompareAnswers, Status> {
    let pb::CompareAnswersRequest { question, pdus } = request;
    let question = match question {
        Some(ComparedRequest::Backfill(it)) => ComparedQuestion::Backfill(backfill(it)?),
        Some(ComparedRequest::GetMissingEvents(it)) => {
            ComparedQuestion::GetMissingEvents(get_missing_events(it)?)
        }
        None => {
            let text = "the request has no question to compare the answers to";
            return Err(status::refuse(ErrorReason::ComparisonInvalid, text));
        }
    };
    let asker = match &question {
        ComparedQuestion::Backfill(it) => &it.asker,
        ComparedQuestion::GetMissingEvents(it) => &it.asker,
    };
    if *asker == Asker::Internal {
        // What the homeserver answers depends on the server that asks.
        let text = "name the asking server as the requester of the question";
        return Err(status::refuse(ErrorReason::ServerNameInvalid, text));
    }
    Ok(CompareAnswers { question, pdus })
}

/// The bounds of the question.
pub(in crate::rpc) fn compared_bounds(request: &pb::CompareAnswersRequest) -> Option<FeederBounds> {
    feeder_bounds(match request.question.as_ref()? {
        ComparedRequest::Backfill(it) => it.feeder_bounds,
        ComparedRequest::GetMissingEvents(it) => it.feeder_bounds,
    })
}

pub(in crate::rpc) fn compare_answers_response(
    comparison: Comparison,
) -> pb::CompareAnswersResponse {
    let Comparison { reasons, differences } = comparison;
    let outcome = match &reasons {
        None => pb::ComparisonOutcome::Unexplained,
        Some(reasons) if reasons.is_empty() => pb::ComparisonOutcome::Same,
        Some(_) => pb::ComparisonOutcome::Explained,
    };
    pb::CompareAnswersResponse {
        outcome: outcome.into(),
        reasons: reasons.unwrap_or_default().iter().map(|it| reason(it).into()).collect(),
        differences: differences.into_iter().map(difference).collect(),
    }
}

fn difference(difference: EventDifference) -> pb::EventDifference {
    let EventDifference { event_id, ours, theirs } = difference;
    let bytes = |digest: Option<[u8; 32]>| digest.map(|it| Bytes::copy_from_slice(&it));
    pb::EventDifference {
        event_id,
        our_sha256: bytes(ours).unwrap_or_default(),
        homeserver_sha256: bytes(theirs).unwrap_or_default(),
    }
}

fn reason(reason: DifferenceReason) -> pb::DifferenceReason {
    match reason {
        DifferenceReason::RedactionsWithheld => pb::DifferenceReason::RedactionsWithheld,
        DifferenceReason::MinDepth => pb::DifferenceReason::MinDepth,
        DifferenceReason::LatestEvents => pb::DifferenceReason::LatestEvents,
        DifferenceReason::RejectedEvents => pb::DifferenceReason::RejectedEvents,
        DifferenceReason::Outliers => pb::DifferenceReason::Outliers,
        DifferenceReason::UnservableEvents => pb::DifferenceReason::UnservableEvents,
        DifferenceReason::OtherRooms => pb::DifferenceReason::OtherRooms,
        DifferenceReason::Limit => pb::DifferenceReason::Limit,
        DifferenceReason::AnswerBound => pb::DifferenceReason::AnswerBound,
        DifferenceReason::ErasedSender => pb::DifferenceReason::ErasedSender,
        DifferenceReason::VisibleBefore => pb::DifferenceReason::VisibleBefore,
    }
}

//! Error responses: the table from the history service's statuses to HTTP statuses and Matrix error codes,
//! and the errors of the gateway itself.
//!
//! The texts are for unknown clients. Messages of the history service are logged, and never sent.

use std::{borrow::Cow, time::Duration};

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use backscroll_matrix::{JsonError, JsonFault};
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    answer, fallback::HomeserverError, limits::Limited, proto::ERROR_DOMAIN,
    x_matrix::Unauthenticated,
};

/// When to repeat a request, if the history service does not say so.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The reasons for which a server may not read a room.
const IS_FORBIDDEN: [&str; 3] = ["NOT_ALLOWED", "ROOM_NOT_HELD", "ROOM_NOT_SERVED"];

/// An error response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    errcode: &'static str,
    message: Cow<'static, str>,
    retry_after_ms: Option<u64>,
    limiter: Option<&'static str>,
    detail: Option<String>,
}

/// What is logged about an error: an extension of the response.
#[derive(Clone, Debug)]
pub(crate) struct ErrorLog {
    pub(crate) errcode: &'static str,
    pub(crate) message: Cow<'static, str>,
    /// The limit that was reached, if it was a limit.
    pub(crate) limiter: Option<&'static str>,
    /// Details for the log only.
    pub(crate) detail: Option<String>,
}

impl ApiError {
    fn new(
        status: StatusCode,
        errcode: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        let message = message.into();
        Self { status, errcode, message, retry_after_ms: None, limiter: None, detail: None }
    }

    /// The status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The error code of the response.
    pub(crate) fn errcode(&self) -> &'static str {
        self.errcode
    }

    pub(crate) fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "There is no such endpoint")
    }

    pub(crate) fn wrong_method() -> Self {
        let message = "This endpoint has no such method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED", message)
    }

    pub(crate) fn body_too_large(limit: usize) -> Self {
        let message = format!("The body is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", message)
    }

    pub(crate) fn body_encoded() -> Self {
        let message = "The body has a Content-Encoding; send it plain";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "M_UNKNOWN", message)
    }

    pub(crate) fn body_too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", "The body did not arrive in time")
    }

    /// The request was not authenticated yet, and was evicted for others.
    pub(crate) fn evicted() -> Self {
        let message = "The request did not arrive in time: too many others are arriving";
        Self::new(StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN", message)
    }

    /// The head of the request is invalid by RFC 9112.
    pub(crate) fn malformed(message: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", message)
    }

    pub(crate) fn body_broken() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", "The body broke off")
    }

    pub(crate) fn bad_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_BAD_JSON", message)
    }

    pub(crate) fn bad_room_id() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_INVALID_PARAM", "The room id is malformed")
    }

    pub(crate) fn not_ready(why: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", why)
    }

    fn limited(
        limiter: &'static str,
        message: &'static str,
        retry_after: Option<Duration>,
    ) -> Self {
        let retry_after = retry_after.unwrap_or(DEFAULT_RETRY_AFTER);
        let ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
        Self {
            retry_after_ms: Some(ms),
            limiter: Some(limiter),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED", message)
        }
    }

    pub(crate) fn panicked() -> Self {
        Self { detail: Some("the handler panicked".to_owned()), ..broken() }
    }
}

fn broken() -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN", "Internal server error")
}

impl From<JsonError> for ApiError {
    fn from(error: JsonError) -> Self {
        let errcode = match error {
            JsonError::Fault(JsonFault::Number | JsonFault::DuplicateMember) => "M_BAD_JSON",
            JsonError::NotJson { .. } | JsonError::Fault(_) => "M_NOT_JSON",
        };
        let text = match error {
            JsonError::NotJson { .. } => format!("The body is {error}"),
            JsonError::Fault(fault) => format!("The body is not canonical JSON: {fault}"),
        };
        Self::new(StatusCode::BAD_REQUEST, errcode, text)
    }
}

impl From<Unauthenticated> for ApiError {
    fn from(error: Unauthenticated) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", format!("Unauthorized: {error}"))
    }
}

impl From<Limited> for ApiError {
    fn from(Limited { limiter, retry_after }: Limited) -> Self {
        Self::limited(limiter.name(), limiter.message(), Some(retry_after))
    }
}

impl From<HomeserverError> for ApiError {
    fn from(error: HomeserverError) -> Self {
        let (status, message) = match &error {
            HomeserverError::Limited(limited) => return (*limited).into(),
            HomeserverError::Slow => {
                (StatusCode::GATEWAY_TIMEOUT, "The homeserver did not answer in time")
            }
            HomeserverError::Unreachable(_) | HomeserverError::Broken(_) => {
                (StatusCode::BAD_GATEWAY, "The homeserver cannot be reached at the moment")
            }
        };
        Self { detail: Some(error.to_string()), ..Self::new(status, "M_UNKNOWN", message) }
    }
}

/// The history service refused us, or something stands between us: no fault of the caller's.
fn bad_gateway() -> ApiError {
    let message = "The room history cannot be reached as it should be";
    ApiError::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message)
}

/// The table. A new code or reason must find its row here.
impl From<Status> for ApiError {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().filter(|info| info.domain == ERROR_DOMAIN);
        let reason = reason.map_or("", |info| info.reason.as_str());
        let mut error = match status.code() {
            // Without such a reason it is not about the client: another server in between has
            // responded. The client must not learn which of them it is.
            Code::PermissionDenied if !IS_FORBIDDEN.contains(&reason) => bad_gateway(),
            Code::PermissionDenied => Self::new(
                StatusCode::FORBIDDEN,
                "M_FORBIDDEN",
                "Your server is not in this room, or is not allowed to ask",
            ),
            Code::InvalidArgument => invalid_argument(reason),
            // The service sends this to internal callers only: other servers must not learn which
            // rooms exist.
            Code::NotFound => Self::new(StatusCode::NOT_FOUND, "M_NOT_FOUND", "Not found"),
            Code::ResourceExhausted => Self::limited(
                "history",
                "The room history has too many requests to answer at the moment",
                details.retry_info().and_then(|info| info.retry_delay),
            ),
            // Events of the room are being removed. This is not a fault.
            Code::Aborted => Self::limited(
                "history",
                "The room history is being changed at the moment",
                details.retry_info().and_then(|info| info.retry_delay),
            ),
            Code::Unavailable => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "M_UNKNOWN",
                "The room history is not available at the moment",
            ),
            // The gateway cancels no call that it waits for. tonic uses CANCELLED for a passed
            // `grpc-timeout` as well.
            Code::DeadlineExceeded | Code::Cancelled => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "M_UNKNOWN",
                "The room history did not answer in time",
            ),
            Code::Ok
            | Code::Unknown
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => broken(),
            // The gateway failed to authenticate: 401 would blame the client's signature.
            Code::Unauthenticated => bad_gateway(),
        };
        error.detail = Some(format!("gRPC {:?} {reason}: {}", status.code(), status.message()));
        error
    }
}

fn invalid_argument(reason: &str) -> ApiError {
    let (errcode, message) = match reason {
        "EVENT_IDS_MISSING" => ("M_MISSING_PARAM", "`v` is missing: name an event to start from"),
        "LIMIT_MISSING" => ("M_MISSING_PARAM", "`limit` is missing"),
        "LIMIT_INVALID" => ("M_INVALID_PARAM", "`limit` is not a positive integer"),
        "SERVER_NAME_INVALID" => ("M_INVALID_PARAM", "A server name is malformed"),
        _ => ("M_INVALID_PARAM", "A parameter is malformed"),
    };
    ApiError::new(StatusCode::BAD_REQUEST, errcode, message)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, errcode, message, retry_after_ms, limiter, detail } = self;
        let mut body = json!({ "errcode": errcode, "error": message });
        if let (Some(ms), Some(body)) = (retry_after_ms, body.as_object_mut()) {
            body.insert("retry_after_ms".to_owned(), ms.into());
        }
        let mut response = answer::json(body.to_string().into_bytes());
        *response.status_mut() = status;
        if let Some(ms) = retry_after_ms {
            response.headers_mut().insert(header::RETRY_AFTER, ms.div_ceil(1_000).into());
        }
        response.extensions_mut().insert(ErrorLog { errcode, message, limiter, detail });
        response
    }
}

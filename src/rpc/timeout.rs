//! The deadline of a request, from the timeout that the caller sent along.

use std::time::{Duration, Instant};

use tonic::metadata::MetadataMap;

use crate::deadline::Deadline;

/// The part of the caller's time that is kept for sending a refusal: the caller should get
/// DEADLINE_EXCEEDED from the service, not CANCELLED from its own transport.
const RESPONSE_TIME: Duration = Duration::from_millis(10);

/// The deadline of a request: a little before the caller stops waiting. A request without
/// `grpc-timeout` has none.
pub(super) fn deadline(metadata: &MetadataMap) -> Deadline {
    Deadline::new(stops_waiting(metadata), Instant::now)
}

fn stops_waiting(metadata: &MetadataMap) -> Option<Instant> {
    let timeout = timeout(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    let response_time = RESPONSE_TIME.min(timeout / 10);
    Instant::now().checked_add(timeout.saturating_sub(response_time))
}

/// Reads `TimeoutValue TimeoutUnit` of gRPC over HTTP/2: at most eight digits and a letter.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_as_grpc_writes_them() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("2M", Some(Duration::from_secs(120))),
            ("3H", Some(Duration::from_secs(10_800))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("+1S", None),
            ("1s", None),
            ("1é", None),
        ] {
            assert_eq!(timeout(text), expected, "{text}");
        }
    }
}

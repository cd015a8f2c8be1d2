//! `/.well-known/matrix/server`: the server that a host delegates to, and how long that is valid.
//! <https://spec.matrix.org/v1.16/server-server-api/#getwell-knownmatrixserver>

use std::time::{Duration, UNIX_EPOCH};

use axum::http::{HeaderMap, Method, header};
use serde::Deserialize;
use url::{Host, Url};

use super::{
    https::{HttpsRequest, HttpsResponse},
    network::{Connector, Unreachable},
    steps::{Route, Target},
};
use crate::server_name::ServerName;

/// Largest response.
const MAX_BYTES: usize = 50 * 1024;
const MAX_REDIRECTS: usize = 5;
const HTTPS_PORT: u16 = 443;

/// How long a response without caching headers is valid.
const DEFAULT_LIFETIME: Duration = Duration::from_hours(24);
/// Longest validity, whatever the response says.
const MAX_LIFETIME: Duration = Duration::from_hours(48);
/// Shortest validity, whatever the response says.
const MIN_LIFETIME: Duration = Duration::from_mins(5);

/// The JSON of the response.
#[derive(Deserialize)]
struct WellKnown {
    #[serde(rename = "m.server")]
    server: String,
}

/// The server that a host delegates to.
pub(super) struct WellKnownServer {
    pub(super) server: ServerName,
    /// How long the delegation is valid.
    pub(super) lifetime: Duration,
}

/// Asks a host which server it delegates to. Follows redirects.
pub(super) async fn fetch(
    connector: &Connector,
    host: &str,
    now_ms: u64,
) -> Result<WellKnownServer, Unreachable> {
    let mut url = Url::parse(&format!("https://{host}/.well-known/matrix/server"))
        .map_err(|_| Unreachable::Name(host.to_owned()))?;
    for _ in 0..=MAX_REDIRECTS {
        let request = HttpsRequest {
            method: Method::GET,
            target: url[url::Position::BeforePath..url::Position::AfterQuery].to_owned(),
            body: Vec::new(),
            max_bytes: MAX_BYTES,
        };
        let response = connector.send(&route(&url)?, request).await?;
        if !response.status.is_redirection() {
            return read(&response, now_ms);
        }
        let location = response.headers.get(header::LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        url = location
            .and_then(|location| url.join(location).ok())
            .ok_or(Unreachable::Redirect("nowhere"))?;
        if url.scheme() != "https" {
            return Err(Unreachable::Redirect("something else than https"));
        }
    }
    Err(Unreachable::Redirect("too many places"))
}

fn route(url: &Url) -> Result<Route, Unreachable> {
    let target = match url.host() {
        Some(Host::Domain(name)) => Target::Name(name.to_owned()),
        Some(Host::Ipv4(address)) => Target::Address(address.into()),
        Some(Host::Ipv6(address)) => Target::Address(address.into()),
        None => return Err(Unreachable::Redirect("nowhere")),
    };
    let host = url[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
    Ok(Route {
        targets: vec![(target.clone(), url.port().unwrap_or(HTTPS_PORT))],
        host,
        tls: target,
    })
}

fn read(response: &HttpsResponse, now_ms: u64) -> Result<WellKnownServer, Unreachable> {
    if response.status != 200 {
        return Err(Unreachable::Status(response.status.as_u16()));
    }
    let well_known: WellKnown =
        serde_json::from_slice(&response.body).map_err(|_| Unreachable::Malformed)?;
    let server = well_known.server.parse().map_err(|_| Unreachable::Malformed)?;
    Ok(WellKnownServer { server, lifetime: lifetime(&response.headers, now_ms) })
}

/// How long a response with these headers is valid.
fn lifetime(headers: &HeaderMap, now_ms: u64) -> Duration {
    let asked_for = cache_control(headers).or_else(|| {
        let expires = headers.get(header::EXPIRES)?;
        // An invalid date counts as one in the past (RFC 9111).
        let expires = expires.to_str().ok().and_then(|date| httpdate::parse_http_date(date).ok());
        let expires = expires.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
        Some(expires.unwrap_or_default().saturating_sub(Duration::from_millis(now_ms)))
    });
    asked_for.unwrap_or(DEFAULT_LIFETIME).clamp(MIN_LIFETIME, MAX_LIFETIME)
}

fn cache_control(headers: &HeaderMap) -> Option<Duration> {
    let mut lifetime = None;
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|it| it.to_str().ok());
    for directive in values.flat_map(|value| value.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Some(Duration::ZERO),
            "max-age" => {
                let seconds = value.trim().trim_matches('"').parse();
                lifetime = seconds.ok().map(Duration::from_secs);
            }
            _ => {}
        }
    }
    lifetime
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_follow_the_caching_headers() {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        for (headers, seconds) in [
            (&[][..], 24 * HOUR),
            (&[("cache-control", "max-age=3600")], HOUR),
            (&[("cache-control", "public, MAX-AGE=\"7200\", x")], 2 * HOUR),
            (&[("cache-control", "max-age=1")], 5 * MINUTE),
            (&[("cache-control", "max-age=99999999")], 48 * HOUR),
            (&[("cache-control", "max-age=many")], 24 * HOUR),
            (&[("cache-control", "max-age=3600"), ("cache-control", "no-store")], 5 * MINUTE),
            (&[("cache-control", "no-cache, max-age=3600")], 5 * MINUTE),
            (&[("expires", "Thu, 01 Jan 1970 03:00:00 GMT")], 2 * HOUR),
            (&[("expires", "Thu, 01 Jan 1970 00:30:00 GMT")], 5 * MINUTE),
            (&[("expires", "0")], 5 * MINUTE),
            (
                &[("cache-control", "max-age=7200"), ("expires", "Thu, 01 Jan 1970 02:00:00 GMT")],
                2 * HOUR,
            ),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().unwrap());
            }
            // It is one o'clock.
            let lifetime = lifetime(&map, HOUR * 1_000);
            assert_eq!(lifetime, Duration::from_secs(seconds), "{headers:?}");
        }
    }
}

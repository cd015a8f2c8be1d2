//! Refuses HTTP/1.x requests that RFC 9112 forbids and hyper accepts: without a `Host` header, with
//! several, or with an invalid one; and with a transfer coding other than `chunked`, the only supported
//! one. The connection is closed, because the start of the next request is not known.
//!
//! A length beside a transfer coding is hidden by hyper, and refused in `wire`.

use std::net::Ipv6Addr;

use axum::{
    extract::Request,
    http::{
        HeaderMap, HeaderValue, Version,
        header::{self, HOST, TRANSFER_ENCODING},
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use crate::error::ApiError;

/// The middleware: refuses invalid requests with 400.
pub(crate) async fn check(request: Request, next: Next) -> Response {
    let Some(fault) = fault(request.version(), request.headers()) else {
        return next.run(request).await;
    };
    let mut response = ApiError::malformed(fault).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn fault(version: Version, headers: &HeaderMap) -> Option<&'static str> {
    if version > Version::HTTP_11 {
        return None;
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_11 => return Some("There is no Host header"),
        (Some(_), Some(_)) => return Some("There is more than one Host header"),
        (Some(host), None) if !is_host(host.as_bytes()) => {
            return Some("The Host header is not a host");
        }
        _ => {}
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => None,
        (Some(coding), None) if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => {
            None
        }
        _ => Some("The only supported Transfer-Encoding is `chunked`"),
    }
}

/// Whether a text is `uri-host [ ":" port ]` (RFC 9110 §7.2) with a host that is not empty.
fn is_host(text: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(text) else { return false };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (text, ""),
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    let in_brackets = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    is_port && in_brackets.map_or_else(|| is_name(host), |it| it.parse::<Ipv6Addr>().is_ok())
}

/// Whether a text is a `reg-name` (RFC 3986 §3.2.2) that is not empty. Every IPv4 address is one.
fn is_name(host: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
    let mut escapes = host.split('%').skip(1);
    !host.is_empty()
        && host.bytes().all(is_allowed)
        && escapes.all(|it| it.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_and_invalid_hosts() {
        for host in
            ["a", "a.example", "a.example:8448", "a:", "1.2.3.4:1", "[::1]", "[::1]:8448", "a%20b"]
        {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "", ":1", "a b", "a/b", "a@b", "a?b", "a#b", "a:b", "a:1:2", "::1", "[::1", "[]",
            "[x]", "é", "%", "%2", "%zz", "\"a\"",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn requests_that_are_refused() {
        let fault = |version, fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            fault(version, &headers).is_some()
        };
        let (old, usual) = (Version::HTTP_10, Version::HTTP_11);
        assert!(fault(usual, &[]) && !fault(old, &[]) && !fault(Version::HTTP_2, &[]));
        for version in [old, usual] {
            assert!(!fault(version, &[("host", "a")]));
            assert!(fault(version, &[("host", "a"), ("host", "a")]));
            assert!(fault(version, &[("host", "")]));
        }
        for (coding, is_fault) in [
            ("chunked", false),
            ("Chunked ", false),
            ("", true),
            ("gzip", true),
            ("gzip, chunked", true),
            ("chunked, chunked", true),
            ("identity", true),
            ("chunked;q=1", true),
        ] {
            let fields = [("host", "a"), ("transfer-encoding", coding)];
            assert_eq!(fault(usual, &fields), is_fault, "{coding}");
        }
        let chunked = ("transfer-encoding", "chunked");
        assert!(fault(usual, &[("host", "a"), chunked, chunked]));
    }
}

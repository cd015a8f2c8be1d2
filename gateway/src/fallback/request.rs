//! A request as the homeserver gets it: the target, the body and the `Authorization` header as they
//! came. Header fields that are about one connection only, and what clients may not claim, are removed.

use axum::{
    body::Bytes,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method,
        header::{
            self, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST,
        },
        request::Parts,
        uri::PathAndQuery,
    },
};
use percent_encoding::percent_decode;

/// Says who has answered a request: a header of responses.
pub(crate) const X_BACKSCROLL: HeaderName = HeaderName::from_static("x-backscroll");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Fields about one connection only (RFC 9110 §7.6.1), and those that older software sends.
const OF_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
/// Fields that a `Connection` header cannot remove: the request would mean something else.
const KEPT: [HeaderName; 4] = [AUTHORIZATION, HOST, CONTENT_TYPE, CONTENT_ENCODING];

/// The head of a request, as the homeserver gets it.
#[derive(Clone, Debug)]
pub(crate) struct ForwardedHead {
    pub(super) method: Method,
    pub(super) target: PathAndQuery,
    pub(super) headers: HeaderMap,
}

/// A request whose body is in memory, as the homeserver gets it.
#[derive(Clone, Debug)]
pub(crate) struct ForwardedRequest {
    pub(crate) head: ForwardedHead,
    pub(crate) body: Bytes,
}

impl ForwardedHead {
    /// Takes the head of a request, with this `X-Forwarded-For` header. `None` if some servers could
    /// read the path as one that is elsewhere: it has a part `.` or `..`, escaped or not.
    pub(crate) fn of(request: &Parts, forwarded_for: &str) -> Option<Self> {
        let target = request.uri.path_and_query()?.clone();
        if has_dot_parts(target.path()) {
            return None;
        }
        let mut headers = request.headers.clone();
        remove_connection_fields(&mut headers);
        // The length of the body is known from the body.
        for name in [CONTENT_LENGTH, header::EXPECT, X_BACKSCROLL] {
            headers.remove(name);
        }
        if let Ok(value) = HeaderValue::from_str(forwarded_for) {
            headers.insert(X_FORWARDED_FOR, value);
        }
        // In HTTP/2 the host is not a header.
        if !headers.contains_key(HOST)
            && let Some(authority) = request.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            headers.insert(HOST, host);
        }
        Some(Self { method: request.method.clone(), target, headers })
    }
}

/// Removes the fields that are about one connection only, and those that its `Connection` header names.
pub(super) fn remove_connection_fields(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| !KEPT.contains(name))
        .collect();
    for name in OF_CONNECTION.into_iter().chain(named) {
        headers.remove(name);
    }
}

fn has_dot_parts(path: &str) -> bool {
    let decoded: Vec<u8> = percent_decode(path.as_bytes()).collect();
    decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(|part| part == b"." || part == b"..")
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn parts(uri: &str, fields: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::new(());
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request.into_parts().0
    }

    fn passed(fields: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let head = ForwardedHead::of(&parts("/a", fields), "192.0.2.1").unwrap();
        let text = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).unwrap();
        let all = head.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
        let mut all: Vec<_> = all.collect();
        all.retain(|(name, _)| name != "x-forwarded-for");
        all
    }

    #[test]
    fn targets_are_passed_on_unchanged_or_not_at_all() {
        for target in [
            "/_matrix/federation/v1/backfill/%21r:us.example?v=%24a%2F&v=$b+c&limit=%31",
            "/_matrix/key/v2/server/",
            "/a/..b/c../%2e%2e%2e/.x?y=/../z",
            "//a//b",
        ] {
            let head = ForwardedHead::of(&parts(target, &[]), "").unwrap();
            assert_eq!(head.target.as_str(), target);
        }
        for target in ["/a/../b", "/a/%2e%2E/b", "/a/.%2e", "/a/./b", "/a%2f..%2fb", "/a%5C..%5cb"]
        {
            assert!(ForwardedHead::of(&parts(target, &[]), "").is_none(), "{target}");
        }
    }

    #[test]
    fn fields_of_the_connection_are_removed() {
        let of_connection = [
            ("connection", "close, x-secret,X-Forwarded-For , authorization"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("content-length", "5"),
            ("x-backscroll", "history"),
        ];
        assert_eq!(passed(&of_connection), []);
        let kept = [("authorization", "X-Matrix a"), ("authorization", "X-Matrix b")];
        let all: Vec<_> = of_connection.into_iter().chain(kept).collect();
        let kept = kept.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(passed(&all), kept);
    }

    #[test]
    fn the_host_and_the_addresses() {
        let head = |uri, fields: &[_]| ForwardedHead::of(&parts(uri, fields), "1.1.1.1, ::1");
        let host = |head: ForwardedHead| head.headers[HOST].to_str().unwrap().to_owned();
        assert_eq!(host(head("https://a.example:1/x", &[]).unwrap()), "a.example:1");
        let both = head("https://a.example:1/x", &[("host", "b")]).unwrap();
        let claims = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "7.7.7.7")];
        assert_eq!(host(both), "b");
        let claimed = head("/x", &claims).unwrap();
        let values: Vec<_> = claimed.headers.get_all(X_FORWARDED_FOR).iter().collect();
        assert_eq!(values, ["1.1.1.1, ::1"]);
    }
}

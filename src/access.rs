//! Whether a server may ask about a room at all.
//!
//! Pure: facts in, the reason of a refusal out. What is not known refuses. The asker is told the
//! same whatever the reason, so that nobody learns which rooms exist.

use std::{fmt, net::IpAddr};

use serde_json::Value;

/// Everything that decides whether a server may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether the room's current access control list allows the server.
    pub acl_allows: bool,
    /// Whether a user of the asking server is joined now.
    pub origin_joined: bool,
    /// Whether a user of our own server is joined now.
    pub destination_joined: bool,
}

/// Why a server may not ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such room here.
    RoomUnknown,
    /// The room's current state is not known.
    StateUnknown,
    /// The room's access control list.
    Acl,
    /// No user of the asking server is joined now.
    OriginNotJoined,
    /// No user of our own server is joined now, so what we know may be out of date.
    DestinationNotJoined,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoomUnknown => "the room is not held here",
            Self::StateUnknown => "the room's current state is not known",
            Self::Acl => "the room's m.room.server_acl does not allow this server",
            Self::OriginNotJoined => "no user of this server is joined to the room now",
            Self::DestinationNotJoined => "no user of our own server is joined to the room now",
        })
    }
}

/// Decides, in the order of [`Refusal`]'s variants.
///
/// # Errors
/// The reason why the server may not ask.
pub fn check(facts: Facts) -> Result<(), Refusal> {
    let Facts { acl_allows, origin_joined, destination_joined } = facts;
    if !acl_allows {
        Err(Refusal::Acl)
    } else if !origin_joined {
        Err(Refusal::OriginNotJoined)
    } else if !destination_joined {
        Err(Refusal::DestinationNotJoined)
    } else {
        Ok(())
    }
}

/// Whether an `m.room.server_acl` of this content allows a server
/// (<https://spec.matrix.org/v1.16/server-server-api/#server-access-control-lists-acls>).
///
/// Entries of the wrong type are ignored; without an `allow` list nobody is allowed, which is
/// also what is left of a list that was redacted.
#[must_use]
pub fn acl_allows(content: &Value, server_name: &str) -> bool {
    let host = host_of(server_name);
    let allow_ip_literals = content.get("allow_ip_literals") != Some(&Value::Bool(false));
    if !allow_ip_literals && is_ip_literal(host) {
        return false;
    }
    let matches = |list: &str| {
        let patterns = content.get(list).and_then(Value::as_array);
        patterns.into_iter().flatten().filter_map(Value::as_str).any(|it| glob(it, host))
    };
    !matches("deny") && matches("allow")
}

/// A server name without its port.
fn host_of(server_name: &str) -> &str {
    match server_name.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|it| it.is_ascii_digit()) => {
            host
        }
        _ => server_name,
    }
}

fn is_ip_literal(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// Whether the whole text matches a pattern of `*` (any run), `?` (any one) and characters of
/// either case. Takes time in proportion to the product of the lengths at worst.
fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().map(|it| it.to_ascii_lowercase()).collect();
    let text: Vec<char> = text.chars().map(|it| it.to_ascii_lowercase()).collect();
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stood, and how far the text was then matched.
    let mut star: Option<(usize, usize)> = None;
    while let Some(symbol) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == symbol => {
                p += 1;
                t += 1;
            }
            Some(_) | None => match star {
                // Let the last `*` take one more.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|it| *it == '*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns() {
        let table = [
            ("*", "example.org", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("example.org", "EXAMPLE.ORG", true),
            ("EXAMPLE.org", "example.ORG", true),
            ("example.org", "example.org.evil.net", false),
            ("example.org", "my-example.org", false),
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "example.org", false),
            ("ex?mple.org", "example.org", true),
            ("ex?mple.org", "exmple.org", false),
            ("a*b*c", "aXXbYYbZc", true),
            ("a*b*c", "aXXbYYbZ", false),
            ("exa[m]ple.org", "example.org", false),
            ("example.org", "exampleXorg", false),
            ("**a**", "bab", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(glob(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let pattern = "*a".repeat(2_000);
        assert!(!glob(&pattern, &"a".repeat(255)));
    }

    #[test]
    fn lists() {
        let table = [
            (json!({"allow": ["*"]}), "example.org", true),
            (json!({"allow": ["*"]}), "example.org:8448", true),
            (json!({"allow": ["*"], "deny": ["example.org"]}), "example.org:8448", false),
            (json!({"allow": ["*"], "deny": ["example.org"]}), "example.com", true),
            (json!({"allow": ["*"], "deny": ["*"]}), "example.org", false),
            (json!({"allow": []}), "example.org", false),
            (json!({"deny": []}), "example.org", false),
            (json!({}), "example.org", false),
            (json!({"allow": "*"}), "example.org", false),
            (json!({"allow": [1, null, "*"], "deny": [2, {}]}), "example.org", true),
            (json!({"allow": ["*"], "deny": "example.org"}), "example.org", true),
            (json!({"allow": ["*"], "allow_ip_literals": false}), "1.2.3.4", false),
            (json!({"allow": ["*"], "allow_ip_literals": false}), "1.2.3.4:8448", false),
            (json!({"allow": ["*"], "allow_ip_literals": false}), "[::1]", false),
            (json!({"allow": ["*"], "allow_ip_literals": false}), "[2001:db8::1]:8448", false),
            (json!({"allow": ["*"], "allow_ip_literals": false}), "1.2.3.example", true),
            (json!({"allow": ["*"], "allow_ip_literals": true}), "1.2.3.4", true),
            (json!({"allow": ["*"], "allow_ip_literals": "false"}), "1.2.3.4", true),
            (json!(null), "example.org", false),
        ];
        for (content, server, expected) in table {
            assert_eq!(acl_allows(&content, server), expected, "{content} for {server}");
        }
    }

    #[test]
    fn everything_must_be_right() {
        let facts = Facts { acl_allows: true, origin_joined: true, destination_joined: true };
        assert_eq!(check(facts), Ok(()));
        let refused = |facts| check(facts).unwrap_err();
        assert_eq!(refused(Facts { acl_allows: false, ..facts }), Refusal::Acl);
        assert_eq!(refused(Facts { origin_joined: false, ..facts }), Refusal::OriginNotJoined);
        let facts = Facts { destination_joined: false, ..facts };
        assert_eq!(refused(facts), Refusal::DestinationNotJoined);
    }
}

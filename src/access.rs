//! Whether a server may ask about a room at all.
//!
//! Pure: [`check`] takes a table of facts and returns the reason of a refusal. An unknown fact leads
//! to a refusal. A refused server gets the same answer whatever the reason, so that it cannot find
//! out which rooms exist.

use std::{fmt, net::IpAddr};

use serde_json::Value;

/// The facts that decide whether a server may ask about a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// Whether the room's current access control list allows the server.
    pub acl_allows: bool,
    /// Whether a user of the asking server is joined now.
    pub origin_joined: bool,
    /// Whether a user of our own server is joined now.
    pub destination_joined: bool,
}

/// The reason why a server may not ask about a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessRefusal {
    /// The room is not held here.
    RoomUnknown,
    /// The room's current state is not known.
    StateUnknown,
    /// The room's access control list does not allow the server.
    Acl,
    /// No user of the asking server is joined now.
    OriginNotJoined,
    /// No user of our own server is joined now, so our copy of the room may be out of date.
    DestinationNotJoined,
}

impl AccessRefusal {
    /// The label of this reason in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::RoomUnknown => "room_unknown",
            Self::StateUnknown => "state_unknown",
            Self::Acl => "acl",
            Self::OriginNotJoined => "origin_not_joined",
            Self::DestinationNotJoined => "destination_not_joined",
        }
    }
}

impl fmt::Display for AccessRefusal {
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

/// Checks whether a server may ask about a room. The facts are checked in the order of the variants
/// of [`AccessRefusal`].
///
/// # Errors
/// The first reason why the server may not ask.
pub fn check(facts: ServerFacts) -> Result<(), AccessRefusal> {
    let ServerFacts { acl_allows, origin_joined, destination_joined } = facts;
    if !acl_allows {
        Err(AccessRefusal::Acl)
    } else if !origin_joined {
        Err(AccessRefusal::OriginNotJoined)
    } else if !destination_joined {
        Err(AccessRefusal::DestinationNotJoined)
    } else {
        Ok(())
    }
}

/// Whether an `m.room.server_acl` of this content allows a server
/// (<https://spec.matrix.org/v1.16/server-server-api/#server-access-control-lists-acls>).
///
/// Entries of the wrong type are ignored. Without an `allow` list no server is allowed; a list that was
/// redacted has none.
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

/// Removes the port from a server name.
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

/// Whether a whole text matches a pattern. In the pattern `*` stands for any run of characters, `?` for
/// any one, and letters match in either case. The time is at worst proportional to the product of the
/// lengths.
fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().map(|it| it.to_ascii_lowercase()).collect();
    let text: Vec<char> = text.chars().map(|it| it.to_ascii_lowercase()).collect();
    let mut p = 0;
    let mut t = 0;
    // The position of the last `*`, and how far the text was matched at it.
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
                // Let the last `*` match one more character.
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
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
        let facts = ServerFacts { acl_allows: true, origin_joined: true, destination_joined: true };
        assert_eq!(check(facts), Ok(()));
        let refused = |facts| check(facts).unwrap_err();
        assert_eq!(refused(ServerFacts { acl_allows: false, ..facts }), AccessRefusal::Acl);
        assert_eq!(
            refused(ServerFacts { origin_joined: false, ..facts }),
            AccessRefusal::OriginNotJoined
        );
        let facts = ServerFacts { destination_joined: false, ..facts };
        assert_eq!(refused(facts), AccessRefusal::DestinationNotJoined);
    }
}

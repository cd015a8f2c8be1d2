//! Identifiers in events: opaque texts after a sigil, cheap to clone.
//!
//! ruma's own types are not used for storage. They refuse ids that are common in old rooms (more than
//! 255 bytes in 255 characters, server names with `_`), and a refused event would leave a hole in the
//! room's graph. `as_ruma` converts an id if ruma accepts it.

use std::{borrow::Borrow, fmt, sync::Arc};

/// The most characters of an identifier, in any room version.
pub(super) const MAX_ID_LENGTH: usize = 255;

/// The reason why a text is not an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// The first character is not the sigil of this kind of identifier.
    #[error("does not begin with its sigil")]
    Sigil,
    /// The text is longer than 255 characters.
    #[error("is longer than 255 characters")]
    Length,
    /// The text has no server name after the first colon.
    #[error("names no server")]
    Server,
}

/// Defines an identifier type; its `parse` is written separately.
macro_rules! identifier {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as a text, with its sigil.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        // Allows lookups with a plain text in maps that are keyed by the identifier.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                *self.0 == *other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                *self.0 == **other
            }
        }
    };
}

identifier!(EventId, "An event id: `$` and any text, at most 255 characters.");
identifier!(RoomId, "A room id: `!` and any text, at most 255 characters.");
identifier!(UserId, "A user id: `@`, a localpart (historical forms too), `:` and a server name.");
identifier!(
    OpaqueServerName,
    "A server name in an identifier: any text of 1 to 255 characters. Its grammar is not checked."
);

impl EventId {
    /// Reads an event id. The text after the sigil is opaque in every room version.
    ///
    /// # Errors
    /// The text has another sigil, or is too long.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        sigil_and_length(text, '$')?;
        Ok(Self(text.into()))
    }

    /// The id of the create event of a room of version 12: both ids share a hash.
    pub fn create_of(room_id: &RoomId) -> Self {
        Self(swap_sigil('$', room_id.as_str()).into())
    }

    /// The server in an event id of room versions 1 and 2: all after the first colon. `None` if there
    /// is none.
    pub fn server_name(&self) -> Option<OpaqueServerName> {
        server_after_colon(self.as_str())
    }

    /// The id as a type of ruma; `None` if ruma does not accept it.
    pub fn as_ruma(&self) -> Option<&ruma::EventId> {
        <&ruma::EventId>::try_from(self.as_str()).ok()
    }
}

impl RoomId {
    /// Reads a room id. From room version 12 on it names no server.
    ///
    /// # Errors
    /// The text has another sigil, or is too long.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        sigil_and_length(text, '!')?;
        Ok(Self(text.into()))
    }

    /// The id of the room of version 12 that a create event creates.
    pub fn created_by(create_event: &EventId) -> Self {
        Self(swap_sigil('!', create_event.as_str()).into())
    }

    /// The id as a type of ruma; `None` if ruma does not accept it.
    pub fn as_ruma(&self) -> Option<&ruma::RoomId> {
        <&ruma::RoomId>::try_from(self.as_str()).ok()
    }
}

impl UserId {
    /// Reads a user id. The localpart may be any text, even empty; the server is all after the first
    /// colon.
    ///
    /// # Errors
    /// The text has another sigil, is too long, or names no server.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        sigil_and_length(text, '@')?;
        server_after_colon(text).ok_or(BadId::Server)?;
        Ok(Self(text.into()))
    }

    /// The server of the user.
    pub fn server_name(&self) -> OpaqueServerName {
        OpaqueServerName(self.server_str().into())
    }

    /// The server of the user, as a text.
    pub fn server_str(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, server)| server)
    }

    /// The id as a type of ruma; `None` if ruma does not accept it.
    pub fn as_ruma(&self) -> Option<&ruma::UserId> {
        <&ruma::UserId>::try_from(self.as_str()).ok()
    }
}

impl OpaqueServerName {
    /// Reads a server name: any text of 1 to 255 characters.
    ///
    /// # Errors
    /// The text is empty or too long.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        match text.chars().nth(MAX_ID_LENGTH) {
            Some(_) => Err(BadId::Length),
            None if text.is_empty() => Err(BadId::Server),
            None => Ok(Self(text.into())),
        }
    }
}

fn sigil_and_length(text: &str, sigil: char) -> Result<(), BadId> {
    if !text.starts_with(sigil) {
        return Err(BadId::Sigil);
    }
    match text.chars().nth(MAX_ID_LENGTH) {
        Some(_) => Err(BadId::Length),
        None => Ok(()),
    }
}

fn server_after_colon(text: &str) -> Option<OpaqueServerName> {
    let (_, server) = text.split_once(':')?;
    OpaqueServerName::parse(server).ok()
}

/// Replaces the sigil of an id. Every sigil is one byte of ASCII.
fn swap_sigil(sigil: char, id: &str) -> String {
    let mut swapped = String::from(sigil);
    swapped.extend(id.chars().skip(1));
    swapped
}

#[cfg(test)]
mod tests {
    use super::{BadId, EventId, OpaqueServerName, RoomId, UserId};

    #[test]
    fn user_ids_may_be_historical() {
        for text in ["@:s", "@A B\u{e9}:s", "@a:b:1", "@\u{1f600}:s_x", "@a/b=+:[::1]:8448"] {
            assert_eq!(UserId::parse(text).unwrap().as_str(), text);
        }
        for (text, why) in [
            ("", BadId::Sigil),
            ("a:s", BadId::Sigil),
            ("!a:s", BadId::Sigil),
            ("@a", BadId::Server),
            ("@a:", BadId::Server),
            (&format!("@{}:s", "a".repeat(253)), BadId::Length),
        ] {
            assert_eq!(UserId::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn the_server_is_all_after_the_first_colon() {
        let user = UserId::parse("@a:b:1").unwrap();
        assert_eq!(user.server_name(), "b:1");
        assert_eq!(user.server_str(), "b:1");
        assert_eq!(
            EventId::parse("$a:b:1").unwrap().server_name(),
            OpaqueServerName::parse("b:1").ok()
        );
        assert_eq!(EventId::parse("$a:").unwrap().server_name(), None);
        assert_eq!(EventId::parse("$a").unwrap().server_name(), None);
    }

    #[test]
    fn a_room_of_version_12_and_its_create_event_share_a_hash() {
        let create = EventId::parse("$abc").unwrap();
        let room = RoomId::created_by(&create);
        assert_eq!(room, "!abc");
        assert_eq!(EventId::create_of(&room), create);
    }

    #[test]
    fn length_is_counted_in_characters() {
        let long = format!("${}", "\u{20ac}".repeat(254));
        assert_eq!(EventId::parse(&long).unwrap().as_str().len(), 1 + 254 * 3);
        assert_eq!(EventId::parse(&format!("{long}a")), Err(BadId::Length));
        // The reason for types of our own.
        assert_eq!(EventId::parse("$e:my_server").unwrap().as_ruma(), None);
        assert_eq!(UserId::parse("@a:my_server").unwrap().as_ruma(), None);
        assert!(UserId::parse("@A b:server").unwrap().as_ruma().is_some());
        assert!(RoomId::parse("!r").unwrap().as_ruma().is_some());
    }
}

//! Room versions 1 to 12 and their rules. Other versions are not supported.

use std::{fmt, str::FromStr};

use ruma::room_version_rules::RoomVersionRules;

/// A room version that this service supports: 1 to 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the versions")]
pub enum RoomVersion {
    V1,
    V2,
    V3,
    V4,
    V5,
    V6,
    V7,
    V8,
    V9,
    V10,
    V11,
    V12,
}

/// A text is not a room version from 1 to 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("room version is not one of 1 to 12")]
pub struct UnknownRoomVersion;

impl RoomVersion {
    /// All versions, oldest first.
    pub const ALL: [Self; 12] = [
        Self::V1,
        Self::V2,
        Self::V3,
        Self::V4,
        Self::V5,
        Self::V6,
        Self::V7,
        Self::V8,
        Self::V9,
        Self::V10,
        Self::V11,
        Self::V12,
    ];

    /// Reads a room version: `"1"` to `"12"`.
    ///
    /// # Errors
    /// The text is not one of these.
    pub fn parse(text: &str) -> Result<Self, UnknownRoomVersion> {
        Self::ALL.into_iter().find(|it| it.as_str() == text).ok_or(UnknownRoomVersion)
    }

    /// The version as a text, as create events have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V2 => "2",
            Self::V3 => "3",
            Self::V4 => "4",
            Self::V5 => "5",
            Self::V6 => "6",
            Self::V7 => "7",
            Self::V8 => "8",
            Self::V9 => "9",
            Self::V10 => "10",
            Self::V11 => "11",
            Self::V12 => "12",
        }
    }

    /// The rules of this version, for events and authorisation.
    pub const fn rules(self) -> &'static RoomVersionRules {
        match self {
            Self::V1 => &RoomVersionRules::V1,
            Self::V2 => &RoomVersionRules::V2,
            Self::V3 => &RoomVersionRules::V3,
            Self::V4 => &RoomVersionRules::V4,
            Self::V5 => &RoomVersionRules::V5,
            Self::V6 => &RoomVersionRules::V6,
            Self::V7 => &RoomVersionRules::V7,
            Self::V8 => &RoomVersionRules::V8,
            Self::V9 => &RoomVersionRules::V9,
            Self::V10 => &RoomVersionRules::V10,
            Self::V11 => &RoomVersionRules::V11,
            Self::V12 => &RoomVersionRules::V12,
        }
    }

    /// Whether events must be canonical JSON, as from version 6 on.
    pub(super) const fn strict_json(self) -> bool {
        self.rules().authorization.strict_canonical_json
    }

    /// Whether ids and state keys are limited to 255 bytes, as from version 11 on, or to 255
    /// characters. Older rooms have events that only the second limit allows, and homeservers keep
    /// them in the graph.
    pub(super) const fn limits_bytes(self) -> bool {
        matches!(self, Self::V11 | Self::V12)
    }
}

impl fmt::Display for RoomVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RoomVersion {
    type Err = UnknownRoomVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::{RoomVersion, UnknownRoomVersion};

    #[test]
    fn only_1_to_12_are_room_versions() {
        for number in 1..=12 {
            let text = number.to_string();
            assert_eq!(RoomVersion::parse(&text).unwrap().as_str(), text);
        }
        for text in ["", "0", "13", "01", " 1", "+1", "1.0", "org.matrix.msc2870"] {
            assert_eq!(RoomVersion::parse(text), Err(UnknownRoomVersion), "{text}");
        }
    }

    #[test]
    fn every_version_has_its_own_rules() {
        for version in RoomVersion::ALL {
            let id = ruma::RoomVersionId::try_from(version.as_str()).unwrap();
            let rules = id.rules().unwrap();
            assert_eq!(format!("{:?}", version.rules()), format!("{rules:?}"), "{version}");
        }
    }
}

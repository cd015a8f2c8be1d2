//! What an engine behind a network counts.

use super::Engine;

/// Counts of an engine behind a network, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounts {
    /// Round trips to the database.
    pub round_trips: u64,
    /// Connections that were lost while the database was asked.
    pub lost_connections: u64,
    /// Commits that were refused because another process had changed the room.
    pub conflicts: u64,
    /// Commits whose answer was lost.
    pub unclear_commits: u64,
}

impl Engine {
    /// What the engine has counted; `None` if the records are on this machine.
    pub(in crate::store) fn counts(&self) -> Option<EngineCounts> {
        match self {
            Self::Postgres(it) => Some(it.counts()),
            Self::Local(_) | Self::Fjall(_) => None,
            #[cfg(test)]
            Self::Test(_) => None,
        }
    }
}

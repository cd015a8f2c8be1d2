//! Which servers copy the database of a store.

/// The servers that copy the database of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replication {
    /// How many there are.
    pub standbys: u64,
    /// Whether each commit waits until one of them has it.
    pub is_waited_for: bool,
}

impl Replication {
    /// Whether acknowledged events are lost if one of the servers takes over.
    #[must_use]
    pub const fn may_lose(self) -> bool {
        self.standbys > 0 && !self.is_waited_for
    }
}

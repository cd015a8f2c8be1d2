//! Why the store cannot do what it was asked, said so that an operator knows what to do next.

use std::{io, path::PathBuf};

use super::Room;

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk, or sled, failed. What was not flushed may or may not be there.
    #[error("the store failed: {0}")]
    Sled(#[from] sled::Error),
    /// sled panicked at what it did not expect.
    #[error("the store failed: sled met what it did not expect ({0})")]
    Panicked(String),
    /// sled cannot open its files. They are as they were, if the store was not closed before.
    #[error(
        "sled cannot open its log in {data_dir} ({said}); restore a backup into an empty directory \
         with `backscroll restore BACKUP --data-dir DIR` and serve that; if there is none, keep a \
         copy of {data_dir} before anything else is tried"
    )]
    NotOpened {
        /// Where the store lies.
        data_dir: PathBuf,
        /// What sled said.
        said: String,
    },
    /// The file system does not make each write durable before it returns.
    #[error(
        "the file system of {0} does not keep the inode flags S and D (`chattr +S +D`), so a power \
         cut may cost more than it should; put the data directory on a local ext4, XFS, Btrfs or \
         F2FS that this user owns, or leave out --require-durable"
    )]
    NotDurable(PathBuf),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record does not say what it should, or is lost: the store is damaged.
    #[error("the store is damaged: {what} (key {key})")]
    Corrupt {
        /// What was to be read.
        what: &'static str,
        /// Its key, in hexadecimal.
        key: String,
    },
    /// A record is not there though another one names it. Either it was removed between the two
    /// reads, by a purge or since the room was deleted; or it is lost: [`StoreError::at_rest`].
    #[error("what was to be read is not there: {what} (key {key})")]
    Missing {
        /// What was to be read.
        what: &'static str,
        /// Its key, in hexadecimal.
        key: String,
    },
    /// This build does not know the version of a room that is held; a newer one does.
    #[error("room {room_id} has version {version}, which this build does not know")]
    RoomVersionUnknown {
        /// The room.
        room_id: String,
        /// Its version.
        version: String,
    },
    /// Others changed the room at every try of a decision. Nothing was committed; the caller may
    /// try again.
    #[error("room {room_id} is changed by others all the time; try again in a moment")]
    Conflict {
        /// The room.
        room_id: String,
    },
    /// The program did what it should never do. Nothing is wrong with what is held.
    #[error("this should not be possible, please report it: {0}")]
    Bug(&'static str),
    /// The volume is nearly full. Nothing was written; what is held can still be read.
    #[error(
        "the volume of the store has {free} bytes left and {reserved} are kept free for opening \
         it again: no events are taken until there are {needed}"
    )]
    DiskFull {
        /// Bytes left.
        free: u64,
        /// Bytes that are never written to.
        reserved: u64,
        /// Bytes that must be left before events are taken again.
        needed: u64,
    },
    /// Another process has the store open.
    #[error("{0} is in use by another process; stop it first, or choose another --data-dir")]
    InUse(PathBuf),
    /// The store has held more than it does now.
    #[error(
        "the store has lost its end: it was flushed {expected} times and holds {held} of them, so \
         its files were changed or put back; restore a backup, or delete {mark} to go on with what \
         is left"
    )]
    CutOff {
        /// What it holds.
        held: u64,
        /// What it has held.
        expected: u64,
        /// The file that says so.
        mark: PathBuf,
    },
    /// The store was written by a newer build.
    #[error("the store has format {found}, this build knows {known}; start the newer build")]
    NewerFormat {
        /// What the store says.
        found: u32,
        /// What this build knows.
        known: u32,
    },
}

impl StoreError {
    pub(crate) fn corrupt(what: &'static str, key: &[u8]) -> Self {
        Self::Corrupt { what, key: hex(key) }
    }

    pub(crate) fn missing(what: &'static str, key: &[u8]) -> Self {
        Self::Missing { what, key: hex(key) }
    }

    pub(crate) fn version_unknown(room: &Room) -> Self {
        let Room { room_id, room_version, .. } = room;
        Self::RoomVersionUnknown { room_id: room_id.clone(), version: room_version.clone() }
    }

    /// What a failure means where nothing can have been removed meanwhile: a record that is not
    /// there is lost.
    #[must_use]
    pub fn at_rest(self) -> Self {
        match self {
            Self::Missing { what, key } => Self::Corrupt { what, key },
            other => other,
        }
    }

    /// Whether something that was on disk is not there as it was: for a repair, or a backup.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Sled(sled::Error::Corruption { .. }))
    }

    /// Whether the failure is about one record: it is damaged, or not there.
    #[must_use]
    pub fn is_of_record(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Missing { .. })
    }
}

fn hex(key: &[u8]) -> String {
    key.iter().map(|it| format!("{it:02x}")).collect()
}

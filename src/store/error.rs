//! Errors of the store, in words that tell an operator what to do next.

use std::{io, path::PathBuf};

use super::{Place, Room};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine failed. Changes that were not flushed may be lost or not.
    #[error("the store failed: {0}")]
    Engine(#[from] EngineError),
    /// The engine cannot open its files. If the store was not closed before, sled's are as they were.
    #[error(
        "the files of the store in {data_dir} cannot be opened ({said}); restore a backup into an empty directory \
         with `backscroll restore BACKUP --data-dir DIR` and serve that; if there is none, keep a \
         copy of {data_dir} before anything else is tried"
    )]
    NotOpened {
        /// The directory of the store.
        data_dir: PathBuf,
        /// The message of the engine.
        said: String,
    },
    /// The file system does not make each write durable before it returns.
    #[error(
        "the file system of {0} does not keep the inode flags S and D (`chattr +S +D`), so a power \
         cut may cost more than it should; put the data directory on a local ext4, XFS, Btrfs or \
         F2FS that this user owns, or leave out --require-durable"
    )]
    NotDurable(PathBuf),
    /// The engine may not open its files after a power cut.
    #[error(
        "after a power cut, a store of {0} may not open; keep it with sled, or leave out \
         --require-durable"
    )]
    EngineNotDurable(&'static str),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A record is malformed or lost: the store is damaged.
    #[error("the store is damaged: {what} (key {key})")]
    Corrupt {
        /// The kind of record.
        what: &'static str,
        /// The record's key, in hexadecimal.
        key: String,
    },
    /// A record does not exist though another record names it. Either it was removed between the
    /// two reads, by a purge or with its room, or it is lost: see [`StoreError::at_rest`].
    #[error("a record does not exist: {what} (key {key})")]
    Missing {
        /// The kind of record.
        what: &'static str,
        /// The record's key, in hexadecimal.
        key: String,
    },
    /// The store holds a room of a version that this build does not know; a newer build does.
    #[error("room {room_id} has version {version}, which this build does not know")]
    RoomVersionUnknown {
        /// The id of the room.
        room_id: String,
        /// The version of the room.
        version: String,
    },
    /// Other writers changed the room at every try of a decision. Nothing was committed; the caller
    /// may try again.
    #[error("room {room_id} is changed by other writers all the time; try again in a moment")]
    Conflict {
        /// The id of the room.
        room_id: String,
    },
    /// An invariant of the program does not hold. The store is not damaged.
    #[error("this should not be possible, please report it: {0}")]
    Bug(&'static str),
    /// The volume is nearly full. Nothing was written; everything that is stored can be read.
    #[error(
        "the volume of the store has {free} bytes left and {reserved} are kept free for opening \
         it again: no events are taken until there are {needed}"
    )]
    DiskFull {
        /// Bytes that are free.
        free: u64,
        /// Bytes that are kept free.
        reserved: u64,
        /// Bytes that must be free before events are accepted again.
        needed: u64,
    },
    /// The database has no space left. Nothing was written; everything that is stored can be read.
    #[error("the database has no space left ({0}): no events are taken until it has")]
    DatabaseFull(String),
    /// Another process repairs the store.
    #[error("the store is being repaired; try again when that has ended")]
    BeingRepaired,
    /// The tables are missing, or the role may not use them.
    #[error(
        "the database is not prepared for this build, or not for this role ({0}); run `backscroll \
         prepare --store URL` with a role that may make tables"
    )]
    NotPrepared(String),
    /// The database server may lose what it has acknowledged.
    #[error(
        "the database has {setting} = {value}, so a crash may cost events that it has acknowledged; set \
         it to on, for the server or for the role"
    )]
    UnsafeSetting {
        /// The name of the setting.
        setting: &'static str,
        /// The value that it has.
        value: String,
    },
    /// The directory holds a store of another engine.
    #[error(
        "{data_dir} holds a store of {engine}: give --store {engine}:{data_dir}, or another directory; \
         `backscroll copy` leads from one engine to the other"
    )]
    OtherEngine {
        /// The directory.
        data_dir: PathBuf,
        /// The engine of the store in it.
        engine: &'static str,
    },
    /// A copy into the store was begun and has not ended.
    #[error("a copy into {0} has not ended; run `backscroll copy` again, it goes on")]
    BeingCopied(Place),
    /// The store holds records that a copy would replace.
    #[error("{0} is not empty; copy into a store that does not exist")]
    NotEmpty(Place),
    /// Another process has the store open.
    #[error("{0} is in use by another process; stop it first, or choose another directory")]
    InUse(PathBuf),
    /// The store holds fewer flushes than it did before.
    #[error(
        "the store has lost its end: it was flushed {expected} times and holds {held} of them, so \
         its files were changed or put back; restore a backup, or delete {mark} to go on with what \
         is left"
    )]
    CutOff {
        /// Flushes that the store holds.
        held: u64,
        /// Flushes that the mark counts.
        expected: u64,
        /// The path of the mark.
        mark: PathBuf,
    },
    /// The store was written by a newer build.
    #[error("the store has format {found}, this build knows {known}; start the newer build")]
    NewerFormat {
        /// The format of the store.
        found: u32,
        /// The format that this build reads and writes.
        known: u32,
    },
}

/// An error of the engine below the store, by what can be done about it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The engine's files are damaged. Repair the store, or restore a backup.
    #[error("{0}")]
    Damaged(String),
    /// A read or a write failed. After a failed write of a store on this machine only opening it again
    /// helps.
    #[error("{0}")]
    Failed(String),
    /// The database cannot be reached. Nothing was written; the caller may try again.
    #[error("the database cannot be reached: {0}")]
    Away(String),
    /// The answer to a commit was lost, and the database cannot be asked what became of it. It was
    /// applied, or not, or will be; the caller may do the same again.
    #[error("the answer to a commit was lost, so it may be applied or not: {0}")]
    Unclear(String),
    /// The engine panicked. Only opening the store again helps.
    #[error("the engine met what it did not expect ({0})")]
    Panicked(String),
}

impl EngineError {
    /// The message of the engine.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Damaged(text)
            | Self::Failed(text)
            | Self::Away(text)
            | Self::Unclear(text)
            | Self::Panicked(text) => text,
        }
    }
}

impl StoreError {
    /// A record is malformed or lost.
    pub(crate) fn corrupt(what: &'static str, key: &[u8]) -> Self {
        Self::Corrupt { what, key: hex(key) }
    }

    /// A record does not exist.
    pub(crate) fn missing(what: &'static str, key: &[u8]) -> Self {
        Self::Missing { what, key: hex(key) }
    }

    /// This build does not know the version of a room.
    pub(crate) fn version_unknown(room: &Room) -> Self {
        let Room { room_id, room_version, .. } = room;
        Self::RoomVersionUnknown { room_id: room_id.clone(), version: room_version.clone() }
    }

    /// The error as it is where nothing can have been removed meanwhile: a record that does not
    /// exist is lost.
    #[must_use]
    pub fn at_rest(self) -> Self {
        match self {
            Self::Missing { what, key } => Self::Corrupt { what, key },
            other => other,
        }
    }

    /// Whether the database cannot be reached, or could not be at the end of a commit.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Away(_) | EngineError::Unclear(_)))
    }

    /// Whether the files of the store are damaged, so that a repair or a backup is needed.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Engine(EngineError::Damaged(_)))
    }

    /// Whether the error is about one record, which is damaged or does not exist.
    #[must_use]
    pub fn is_of_record(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Missing { .. })
    }
}

fn hex(key: &[u8]) -> String {
    key.iter().map(|it| format!("{it:02x}")).collect()
}

//! The manifest of a backup: one entry per line. It lists the files of each room, and the tombstones
//! of the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{BackupError, at};

/// The entry of a room in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRoom {
    /// The id of the room.
    pub room_id: String,
    /// The path of its file, relative to the folder of the backup.
    pub file: String,
    /// The number of events in the file.
    pub events: u64,
    /// The SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// The events that were purged from the room and may not return; `None` if none were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<FileEntry>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The path of the file, relative to the folder of the backup.
    pub file: String,
    /// The SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

/// The rooms and users whose events must not be served again after a restore, or not whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstones {
    /// The ids of rooms that were deleted and may not return.
    pub rooms: BTreeSet<String>,
    /// The ids of users who asked for erasure.
    pub users: BTreeSet<String>,
    /// The bans that redact.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub bans: BTreeSet<BackupBan>,
    /// Why rooms are not served to other servers, by their ids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_served: BTreeMap<String, String>,
}

/// What was read before the first room, so that nothing in it is newer than a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupStart {
    /// The cursors of feeders by their names, in Base64.
    pub cursors: BTreeMap<String, String>,
    /// Why rooms were not served to other servers, by their ids. The file of such a room may be
    /// incomplete, even if the room is served when the backup ends.
    pub not_served: BTreeMap<String, String>,
}

impl BackupStart {
    /// Whether there is nothing to note.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cursors.is_empty() && self.not_served.is_empty()
    }
}

/// A ban that redacts what the banned user has sent to a room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BackupBan {
    /// The id of the room.
    pub room_id: String,
    /// The id of the banned user.
    pub user_id: String,
    /// The id of the event that bans the user.
    pub ban_event_id: String,
    /// Events of the user that arrive at this number or later are not redacted; `None` if all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_arrival: Option<i64>,
}

/// A manifest that was read.
#[derive(Default)]
pub(super) struct Manifest {
    /// `None` if there was nothing to note.
    pub(super) start: Option<BackupStart>,
    pub(super) rooms: Vec<BackupRoom>,
    pub(super) tombstones: Tombstones,
    /// The totals of a finished backup; `None` if it is not finished.
    pub(super) complete: Option<Totals>,
}

/// The numbers of rooms and events of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// The number of rooms.
    pub rooms: u64,
    /// The number of events in all rooms.
    pub events: u64,
}

/// A line of a manifest.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Entry {
    Start(BackupStart),
    Room(BackupRoom),
    /// The name in files stays as it was at first.
    #[serde(rename = "withheld")]
    Tombstones(Tombstones),
    Complete(Totals),
}

impl BackupRoom {
    /// The number in the name of its file; `None` if the name is none of ours.
    pub(super) fn number(&self) -> Option<u64> {
        self.file.strip_prefix("rooms/")?.strip_suffix(".ndjson")?.parse().ok()
    }

    /// Whether all of its files in `dir` have the checksums of the manifest.
    pub(super) fn is_whole(&self, dir: &Path) -> bool {
        let is_whole = |file: &str, sha256: &str| {
            super::sha256_of(&dir.join(file)).is_ok_and(|it| it == *sha256)
        };
        is_whole(&self.file, &self.sha256)
            && self.purged.as_ref().is_none_or(|it| is_whole(&it.file, &it.sha256))
    }
}

/// Reads a manifest. In one that is not finished, half a line at the end is skipped: a crash leaves
/// it.
pub(super) fn read(path: &Path) -> Result<Manifest, BackupError> {
    let file = BufReader::new(File::open(path).map_err(at(path))?);
    let mut found = Manifest::default();
    let lines: Vec<String> = file.lines().collect::<Result<_, _>>().map_err(at(path))?;
    for (number, text) in (1..).zip(&lines) {
        match serde_json::from_str(text) {
            Ok(Entry::Start(start)) => found.start = Some(start),
            Ok(Entry::Room(room)) => found.rooms.push(room),
            Ok(Entry::Tombstones(mut it)) => {
                found.tombstones.rooms.append(&mut it.rooms);
                found.tombstones.users.append(&mut it.users);
                found.tombstones.bans.append(&mut it.bans);
                found.tombstones.not_served.append(&mut it.not_served);
            }
            Ok(Entry::Complete(totals)) => found.complete = Some(totals),
            Err(_) if number == lines.len() && path.ends_with(super::PARTIAL) => {}
            Err(_) => return Err(BackupError::Manifest { path: path.to_owned(), line: number }),
        }
    }
    Ok(found)
}

/// Appends an entry to a manifest, and syncs it.
pub(super) fn write(manifest: &mut File, entry: &Entry) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    manifest.write_all(&line)?;
    manifest.sync_all()
}

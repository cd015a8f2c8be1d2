//! The manifest of a backup: an entry a line, what each room's files are and what stays away.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{BackupError, at};

/// A room of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// The room.
    pub room_id: String,
    /// Its file, from the folder of the backup.
    pub file: String,
    /// Events in it.
    pub events: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// Which events were purged from it and must not come back, if any were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<Purged>,
}

/// The purged events of a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// The file, from the folder of the backup.
    pub file: String,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

/// What is to stay away from the store as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// Rooms that were deleted and may not return.
    pub rooms: BTreeSet<String>,
    /// Users who asked for erasure.
    pub users: BTreeSet<String>,
}

/// What a manifest says.
#[derive(Default)]
pub(super) struct Manifest {
    pub(super) rooms: Vec<Room>,
    pub(super) withheld: Withheld,
    /// How many rooms and events there are, if it is whole.
    pub(super) complete: Option<(u64, u64)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Entry {
    Room(Room),
    Withheld(Withheld),
    Complete { rooms: u64, events: u64 },
}

impl Room {
    /// The number in the name of its file.
    pub(super) fn number(&self) -> Option<u64> {
        self.file.strip_prefix("rooms/")?.strip_suffix(".ndjson")?.parse().ok()
    }

    /// Its files and their checksums.
    pub(super) fn files(&self) -> impl Iterator<Item = (&String, &String)> {
        let purged = self.purged.iter().map(|it| (&it.file, &it.sha256));
        std::iter::once((&self.file, &self.sha256)).chain(purged)
    }
}

/// What a manifest says. Half a line at the end of an incomplete one is what a crash leaves.
pub(super) fn read(path: &Path) -> Result<Manifest, BackupError> {
    let file = BufReader::new(File::open(path).map_err(at(path))?);
    let mut found = Manifest::default();
    let lines: Vec<String> = file.lines().collect::<Result<_, _>>().map_err(at(path))?;
    for (number, text) in (1..).zip(&lines) {
        match serde_json::from_str(text) {
            Ok(Entry::Room(room)) => found.rooms.push(room),
            Ok(Entry::Withheld(mut it)) => {
                found.withheld.rooms.append(&mut it.rooms);
                found.withheld.users.append(&mut it.users);
            }
            Ok(Entry::Complete { rooms, events }) => found.complete = Some((rooms, events)),
            Err(_) if number == lines.len() && path.ends_with(super::PARTIAL) => {}
            Err(_) => return Err(BackupError::Manifest { path: path.to_owned(), line: number }),
        }
    }
    Ok(found)
}

pub(super) fn write(manifest: &mut File, entry: &Entry) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    manifest.write_all(&line)?;
    manifest.sync_all()
}

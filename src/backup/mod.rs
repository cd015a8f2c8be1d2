//! A backup: a folder of rooms in the room format, with a manifest that lists the files and their
//! checksums. It can be read without the store that it was made from.
//!
//! ```text
//! DIR/manifest.ndjson      {"start": {"cursors", "not_served"}}: cursors of feeders, and rooms that
//!                          were not served, both read before the first room; absent if there are
//!                          none; for each room {"room": {"room_id", "file", "events", "sha256"}},
//!                          {"withheld": {"rooms", "users", "bans", "not_served"}}: deleted rooms,
//!                          erased users, bans that redact, and rooms that are not served at the end;
//!                          and as the last line {"complete": {"rooms", "events"}}
//! DIR/rooms/000001.ndjson  a room
//! DIR/rooms/000001.purged  hashes of the ids of events that were purged from the room, if any
//!                          were: half a SHA-256 per line, in hexadecimal
//! ```
//!
//! Until a backup is finished its manifest is `manifest.partial`. So an interrupted backup is never
//! taken for a finished one, and the next run continues it.

mod manifest;

use std::{
    fs::{self, File},
    io::{self, BufReader, Read as _, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

pub use self::manifest::{BackupBan, BackupRoom, BackupStart, FileEntry, Tombstones, Totals};
use self::manifest::{Entry, Manifest};
use crate::{
    num,
    pdu::{Event, RoomVersion},
    room_format::{FormatError, Header, Line, Reader},
};

/// The name of the manifest of a finished backup, and of an unfinished one.
const MANIFEST: &str = "manifest.ndjson";
const PARTIAL: &str = "manifest.partial";

/// An error of a backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The directory holds no backup, or one that is not finished.
    #[error(
        "{0} holds no finished backup; if one was interrupted, `backscroll backup` continues it"
    )]
    NotFinished(PathBuf),
    /// The directory holds a finished backup already.
    #[error("{0} holds a finished backup already; give another directory")]
    Finished(PathBuf),
    /// A line of the manifest is damaged.
    #[error("{path}: line {line} is damaged")]
    Manifest {
        /// The path of the manifest.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
    },
    /// A file differs from the manifest.
    #[error("{path}: {what}")]
    Room {
        /// The path of the file.
        path: PathBuf,
        /// The difference, in words for an operator.
        what: String,
    },
}

/// Writes a backup, room by room.
pub struct BackupWriter {
    dir: PathBuf,
    manifest: File,
    /// `None` before [`begin`](Self::begin).
    start: Option<BackupStart>,
    rooms: Vec<BackupRoom>,
    /// The number of the next room's file, greater than those of all rooms in the backup.
    next_file: u64,
}

impl BackupWriter {
    /// Begins a backup in an empty or new directory, or continues an interrupted one.
    ///
    /// # Errors
    /// When the directory holds a finished backup, or cannot be written.
    pub fn open(dir: &Path) -> Result<Self, BackupError> {
        if dir.join(MANIFEST).exists() {
            return Err(BackupError::Finished(dir.to_owned()));
        }
        let folder = dir.join("rooms");
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let path = dir.join(PARTIAL);
        let Manifest { start, mut rooms, .. } =
            if path.exists() { manifest::read(&path)? } else { Manifest::default() };
        rooms.retain(|room| room.is_whole(dir));
        // A room may be older than every cursor that is read from now on.
        let start = start.or_else(|| (!rooms.is_empty()).then(BackupStart::default));
        // The manifest is written anew, without half a line at its end.
        let mut manifest = File::create(&path).map_err(at(&path))?;
        if let Some(start) = start.clone().filter(|it| !it.is_empty()) {
            manifest::write(&mut manifest, &Entry::Start(start)).map_err(at(&path))?;
        }
        for room in &rooms {
            manifest::write(&mut manifest, &Entry::Room(room.clone())).map_err(at(&path))?;
        }
        // Not the number of rooms: the number of a room that was dropped is not used again.
        let next_file = rooms.iter().filter_map(BackupRoom::number).max().unwrap_or(0) + 1;
        Ok(Self { dir: dir.to_owned(), manifest, start, rooms, next_file })
    }

    /// Whether [`begin`](Self::begin) was called, by this run or by the interrupted one.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.start.is_some()
    }

    /// Notes what was read before the first room.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub fn begin(&mut self, start: BackupStart) -> Result<(), BackupError> {
        if !start.is_empty() {
            let path = self.dir.join(PARTIAL);
            let entry = Entry::Start(start.clone());
            manifest::write(&mut self.manifest, &entry).map_err(at(&path))?;
        }
        self.start = Some(start);
        Ok(())
    }

    /// Whether a room is in the backup already.
    #[must_use]
    pub fn has(&self, room_id: &str) -> bool {
        self.rooms.iter().any(|it| it.room_id == room_id)
    }

    /// Makes the file for the next room.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin_room(&self) -> Result<RoomFile, BackupError> {
        self.begin_file("ndjson")
    }

    /// Makes the file for the events that were purged from the next room.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn begin_purged(&self) -> Result<RoomFile, BackupError> {
        self.begin_file("purged")
    }

    /// Removes the files of a room that was begun and not ended, for example because it was deleted
    /// meanwhile.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn abandon_room(&self) -> Result<(), BackupError> {
        for kind in ["ndjson", "purged"] {
            let path = self.dir.join(self.file_name(kind));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(at(&path)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn file_name(&self, kind: &str) -> String {
        format!("rooms/{:06}.{kind}", self.next_file)
    }

    fn begin_file(&self, kind: &str) -> Result<RoomFile, BackupError> {
        let file = self.file_name(kind);
        let path = self.dir.join(&file);
        let open = File::create(&path).map_err(at(&path))?;
        Ok(RoomFile { file, path, open: io::BufWriter::new(open), hash: Sha256::new() })
    }

    /// Adds a room to the manifest. Its files are on disk when this returns.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn end_room(
        &mut self,
        room: RoomFile,
        purged: Option<RoomFile>,
        room_id: &str,
        events: u64,
    ) -> Result<(), BackupError> {
        let FileEntry { file, sha256 } = room.end()?;
        let purged = purged.map(RoomFile::end).transpose()?;
        let room = BackupRoom { room_id: room_id.to_owned(), file, events, sha256, purged };
        let manifest = self.dir.join(PARTIAL);
        manifest::write(&mut self.manifest, &Entry::Room(room.clone())).map_err(at(&manifest))?;
        self.rooms.push(room);
        self.next_file += 1;
        Ok(())
    }

    /// Finishes the backup, and returns its totals. It is on disk when this returns.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn finish(mut self, mut tombstones: Tombstones) -> Result<Totals, BackupError> {
        let partial = self.dir.join(PARTIAL);
        let whole = self.dir.join(MANIFEST);
        for (room_id, reason) in self.start.iter().flat_map(|it| &it.not_served) {
            tombstones.not_served.entry(room_id.clone()).or_insert_with(|| reason.clone());
        }
        manifest::write(&mut self.manifest, &Entry::Tombstones(tombstones))
            .map_err(at(&partial))?;
        let totals = totals(&self.rooms);
        manifest::write(&mut self.manifest, &Entry::Complete(totals)).map_err(at(&partial))?;
        // The names of the files become durable before the name of the manifest.
        sync_folder(&self.dir.join("rooms"))?;
        fs::rename(&partial, &whole).map_err(at(&whole))?;
        sync_folder(&self.dir)?;
        // The parent may belong to another user; its entry for the backup is synced if possible.
        let parent = self.dir.parent().filter(|it| !it.as_os_str().is_empty());
        drop(parent.map(sync_folder));
        Ok(totals)
    }
}

/// A file of a room while it is written.
pub struct RoomFile {
    file: String,
    path: PathBuf,
    open: io::BufWriter<File>,
    hash: Sha256,
}

impl RoomFile {
    /// Syncs the file, and returns its name and its checksum.
    fn end(self) -> Result<FileEntry, BackupError> {
        let Self { file, path, open, hash } = self;
        let open = open.into_inner().map_err(|error| at(&path)(error.into_error()))?;
        open.sync_all().map_err(at(&path))?;
        Ok(FileEntry { file, sha256: hex(hash) })
    }
}

impl Write for RoomFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.open.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open.flush()
    }
}

/// What the manifest of a finished backup lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// What was read before the first room.
    pub start: BackupStart,
    /// The rooms.
    pub rooms: Vec<BackupRoom>,
    /// What was read after the last room.
    pub tombstones: Tombstones,
}

/// Reads the manifest of a finished backup.
///
/// # Errors
/// When the backup is not finished, or its manifest is damaged.
pub fn contents(dir: &Path) -> Result<Contents, BackupError> {
    let path = dir.join(MANIFEST);
    if !path.exists() {
        return Err(BackupError::NotFinished(dir.to_owned()));
    }
    let Manifest { start, rooms, tombstones, complete } = manifest::read(&path)?;
    if complete != Some(totals(&rooms)) {
        return Err(BackupError::NotFinished(dir.to_owned()));
    }
    Ok(Contents { start: start.unwrap_or_default(), rooms, tombstones })
}

/// The totals of some rooms.
fn totals(rooms: &[BackupRoom]) -> Totals {
    let events = rooms.iter().map(|it| it.events).sum();
    Totals { rooms: num::u64(rooms.len()), events }
}

/// Opens the file of a room, after its checksum was verified.
///
/// # Errors
/// When the file differs from the manifest.
pub fn open_room(
    dir: &Path,
    room: &BackupRoom,
) -> Result<(Header, Reader<BufReader<File>>), BackupError> {
    let path = dir.join(&room.file);
    let fault = |what: String| BackupError::Room { path: path.clone(), what };
    check_file(&path, &room.sha256)?;
    let file = BufReader::new(File::open(&path).map_err(at(&path))?);
    let (header, lines) = Reader::open(file).map_err(|error| fault(error.to_string()))?;
    if header.room_id != room.room_id {
        return Err(fault(format!("holds the room {}", header.room_id)));
    }
    Ok((header, lines))
}

/// Reads the hashes of the ids of events that were purged from a room.
///
/// # Errors
/// When the file differs from the manifest.
pub fn purged_of(dir: &Path, room: &BackupRoom) -> Result<Vec<[u8; 16]>, BackupError> {
    let Some(FileEntry { file, sha256 }) = &room.purged else { return Ok(Vec::new()) };
    let path = dir.join(file);
    check_file(&path, sha256)?;
    let fault = || BackupError::Room {
        path: path.clone(),
        what: "holds a line that is no hash".to_owned(),
    };
    let text = fs::read_to_string(&path).map_err(at(&path))?;
    let hash = |line: &str| u128::from_str_radix(line, 16).map(u128::to_be_bytes);
    text.lines().map(|line| hash(line).map_err(|_| fault())).collect()
}

/// Checks the file of a room without a store: the id and the room of each event, and their number.
///
/// # Errors
/// The first fault that is found.
pub fn check_room(dir: &Path, room: &BackupRoom) -> Result<(), BackupError> {
    let (header, lines) = open_room(dir, room)?;
    let fault = |what: String| BackupError::Room { path: dir.join(&room.file), what };
    let version = RoomVersion::parse(&header.room_version).map_err(|it| fault(it.to_string()))?;
    let mut events = 0;
    for line in lines {
        let Line { event_id, pdu, .. } = line.map_err(|it: FormatError| fault(it.to_string()))?;
        let read = Event::read(pdu.get().as_bytes(), version, &event_id);
        let read = read.map_err(|it| fault(format!("{event_id}: {it}")))?;
        let (own_id, room_id) = match &read {
            Event::Readable(pdu) => (Some(pdu.event_id()), Some(pdu.room_id().as_str().to_owned())),
            Event::Unreadable(it) => (None, it.room_id(version)),
        };
        if own_id.is_some_and(|it| *it != *event_id) || room_id.is_some_and(|it| it != room.room_id)
        {
            return Err(fault(format!("{event_id} is not the event of its line")));
        }
        events += 1;
    }
    if events == room.events {
        purged_of(dir, room).map(drop)
    } else {
        Err(fault(format!("holds {events} events, the manifest says {}", room.events)))
    }
}

/// Syncs a folder to disk.
fn sync_folder(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|it| it.sync_all()).map_err(at(path))
}

/// Verifies the checksum of a file.
fn check_file(path: &Path, sha256: &str) -> Result<(), BackupError> {
    if sha256_of(path).map_err(at(path))? == *sha256 {
        return Ok(());
    }
    let what = "the file is not what was backed up: its checksum differs".to_owned();
    Err(BackupError::Room { path: path.to_owned(), what })
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(hash)),
            read => hash.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|it| format!("{it:02x}")).collect()
}

/// Makes an error of the operating system into one that names the path.
fn at(path: &Path) -> impl Fn(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { path: path.clone(), source }
}

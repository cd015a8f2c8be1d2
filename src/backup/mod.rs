//! A backup: a folder of rooms in the room format, with a manifest that says what belongs to it and
//! what each file's checksum is. It outlives the store, and needs none of it to be read.
//!
//! ```text
//! DIR/manifest.ndjson      {"room": {"room_id", "file", "events", "sha256"}} a line a room,
//!                          {"withheld": {"rooms", "users"}}: deleted, erased; as many as needed
//!                          and, last, {"complete": {"rooms", "events"}}
//! DIR/rooms/000001.ndjson  a room
//! DIR/rooms/000001.purged  hashes of the ids of events that were purged from it, if any were:
//!                          half a SHA-256 a line, in hexadecimal
//! ```
//!
//! While a backup is being made the manifest is `manifest.partial`, so that one which was cut off
//! is never taken for a whole one, and can be gone on with.

mod manifest;

use std::{
    fs::{self, File},
    io::{self, BufReader, Read as _, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use self::manifest::{Entry, Manifest};
pub use self::manifest::{Purged, Room, Withheld};
use crate::{
    pdu::{Event, RoomVersion},
    room_format::{FormatError, Header, Line, Reader},
};

/// The manifest of a whole backup, and of one that is being made.
const MANIFEST: &str = "manifest.ndjson";
const PARTIAL: &str = "manifest.partial";

/// Why a backup is not to be relied on.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no backup, or none that was finished.
    #[error(
        "{0} holds no finished backup; if one was cut off, `backscroll backup` goes on with it"
    )]
    NotFinished(PathBuf),
    /// There is one already.
    #[error("{0} holds a finished backup already; give another directory")]
    Finished(PathBuf),
    /// The manifest is damaged.
    #[error("{path}: line {line} is damaged")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// A file is not what the manifest says.
    #[error("{path}: {what}")]
    Room {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// A backup that is being made.
pub struct Writer {
    dir: PathBuf,
    manifest: File,
    rooms: Vec<Room>,
    /// Number of the next room's file: behind those of all rooms that are in it already.
    next_file: u64,
}

impl Writer {
    /// Begins a backup in an empty or new directory, or goes on with one that was cut off.
    ///
    /// # Errors
    /// When there is a finished one, or the directory cannot be written.
    pub fn open(dir: &Path) -> Result<Self, BackupError> {
        if dir.join(MANIFEST).exists() {
            return Err(BackupError::Finished(dir.to_owned()));
        }
        let folder = dir.join("rooms");
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let path = dir.join(PARTIAL);
        let mut rooms = if path.exists() { manifest::read(&path)?.rooms } else { Vec::new() };
        let is_whole = |(file, sha256): (&String, &String)| {
            sha256_of(&dir.join(file)).is_ok_and(|it| it == *sha256)
        };
        rooms.retain(|room| room.files().all(is_whole));
        // Begun anew, so that half a line at its end does no harm.
        let mut manifest = File::create(&path).map_err(at(&path))?;
        for room in &rooms {
            manifest::write(&mut manifest, &Entry::Room(room.clone())).map_err(at(&path))?;
        }
        // Not how many there are: one that was not whole left a number out.
        let next_file = rooms.iter().filter_map(Room::number).max().unwrap_or(0) + 1;
        Ok(Self { dir: dir.to_owned(), manifest, rooms, next_file })
    }

    /// Whether a room is in it already.
    #[must_use]
    pub fn has(&self, room_id: &str) -> bool {
        self.rooms.iter().any(|it| it.room_id == room_id)
    }

    /// A file for the next room.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin_room(&self) -> Result<RoomFile, BackupError> {
        self.begin_file("ndjson")
    }

    /// A file for what was purged from the next room.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin_purged(&self) -> Result<RoomFile, BackupError> {
        self.begin_file("purged")
    }

    /// Removes the files of a room that was begun and not ended: it was deleted meanwhile, say.
    ///
    /// # Errors
    /// When they cannot be removed.
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

    /// Puts a room into the manifest; its file is on disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end_room(
        &mut self,
        (room, purged): (RoomFile, Option<RoomFile>),
        room_id: &str,
        events: u64,
    ) -> Result<(), BackupError> {
        let (file, sha256) = room.end()?;
        let purged = purged.map(RoomFile::end).transpose()?;
        let purged = purged.map(|(file, sha256)| Purged { file, sha256 });
        let room = Room { room_id: room_id.to_owned(), file, events, sha256, purged };
        let manifest = self.dir.join(PARTIAL);
        manifest::write(&mut self.manifest, &Entry::Room(room.clone())).map_err(at(&manifest))?;
        self.rooms.push(room);
        self.next_file += 1;
        Ok(())
    }

    /// Finishes the backup; it is on disk, whole, when this returns. How many rooms and events it
    /// holds.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self, withheld: Withheld) -> Result<(u64, u64), BackupError> {
        let (partial, whole) = (self.dir.join(PARTIAL), self.dir.join(MANIFEST));
        manifest::write(&mut self.manifest, &Entry::Withheld(withheld)).map_err(at(&partial))?;
        let rooms = u64::try_from(self.rooms.len()).unwrap_or(u64::MAX);
        let events = self.rooms.iter().map(|it| it.events).sum();
        manifest::write(&mut self.manifest, &Entry::Complete { rooms, events })
            .map_err(at(&partial))?;
        // The names of the files, and only then that of what says they are all there.
        sync_folder(&self.dir.join("rooms"))?;
        fs::rename(&partial, &whole).map_err(at(&whole))?;
        sync_folder(&self.dir)?;
        // Another's folder, perhaps: our name in it is worth a try.
        let parent = self.dir.parent().filter(|it| !it.as_os_str().is_empty());
        drop(parent.map(sync_folder));
        Ok((rooms, events))
    }
}

/// A room's file while it is written.
pub struct RoomFile {
    file: String,
    path: PathBuf,
    open: io::BufWriter<File>,
    hash: Sha256,
}

impl RoomFile {
    /// Puts it on disk. Its name and its checksum.
    fn end(self) -> Result<(String, String), BackupError> {
        let Self { file, path, open, hash } = self;
        let open = open.into_inner().map_err(|error| at(&path)(error.into_error()))?;
        open.sync_all().map_err(at(&path))?;
        Ok((file, hex(hash)))
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

/// The rooms of a finished backup, and what is to stay away.
///
/// # Errors
/// When there is none, or its manifest is damaged.
pub fn rooms(dir: &Path) -> Result<(Vec<Room>, Withheld), BackupError> {
    let path = dir.join(MANIFEST);
    if !path.exists() {
        return Err(BackupError::NotFinished(dir.to_owned()));
    }
    let Manifest { rooms, withheld, complete } = manifest::read(&path)?;
    let counted = u64::try_from(rooms.len()).unwrap_or(u64::MAX);
    let events = rooms.iter().map(|it| it.events).sum();
    if complete != Some((counted, events)) {
        return Err(BackupError::NotFinished(dir.to_owned()));
    }
    Ok((rooms, withheld))
}

/// Reads a room of a backup whose checksum is right.
///
/// # Errors
/// When the file is not what the manifest says.
pub fn open_room(
    dir: &Path,
    room: &Room,
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

/// The hashes of the ids of events that were purged from a room of a backup.
///
/// # Errors
/// When the file is not what the manifest says.
pub fn purged_of(dir: &Path, room: &Room) -> Result<Vec<[u8; 16]>, BackupError> {
    let Some(Purged { file, sha256 }) = &room.purged else { return Ok(Vec::new()) };
    let path = dir.join(file);
    check_file(&path, sha256)?;
    let fault =
        || BackupError::Room { path: path.clone(), what: "holds what is no hash".to_owned() };
    let text = fs::read_to_string(&path).map_err(at(&path))?;
    let hash = |line: &str| u128::from_str_radix(line, 16).map(u128::to_be_bytes);
    text.lines().map(|line| hash(line).map_err(|_| fault())).collect()
}

/// Checks a room of a backup, event by event, without a store: ids, rooms, counts.
///
/// # Errors
/// The first fault found.
pub fn check_room(dir: &Path, room: &Room) -> Result<(), BackupError> {
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
            return Err(fault(format!("{event_id} is not the event that stands there")));
        }
        events += 1;
    }
    if events == room.events {
        purged_of(dir, room).map(drop)
    } else {
        Err(fault(format!("holds {events} events, the manifest says {}", room.events)))
    }
}

fn sync_folder(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|it| it.sync_all()).map_err(at(path))
}

fn check_file(path: &Path, sha256: &str) -> Result<(), BackupError> {
    if sha256_of(path).map_err(at(path))? == *sha256 {
        return Ok(());
    }
    let what = "the file is not what was backed up: its checksum is another".to_owned();
    Err(BackupError::Room { path: path.to_owned(), what })
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
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

fn at(path: &Path) -> impl Fn(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { path: path.clone(), source }
}

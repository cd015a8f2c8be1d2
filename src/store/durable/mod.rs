//! What makes the store's files survive a power cut.
//!
//! sled 0.34.7 makes its log durable with `pwrite` and `sync_file_range`, which neither write a
//! file's size nor flush the disk's own cache. So every directory and every file of the store gets
//! the inode flags `FS_SYNC_FL` and `FS_DIRSYNC_FL`, before sled creates anything: files inherit
//! them, and each write and each change of a name is durable when it returns, whoever makes it.
//!
//! Not every file system has these flags. They are read back, and where they are not kept the store
//! syncs by its own means before each acknowledgement. That is worth less, since the order in which
//! parts of the log reach the disk between two syncs is then the file system's.
//!
//! Our own sync is made in both cases: it hears of errors that sled's thread would forget.

mod flags;

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::StoreError;

/// What makes the store's writes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The file system: each write is durable when it returns.
    FileSystem,
    /// This program, with a sync before each acknowledgement. After a power cut the store may not
    /// open, and then a backup has to be restored.
    OwnSync,
    /// sled, with a sync of each write of its log, as it does on other systems than Linux; this
    /// program syncs the rest.
    Sled,
}

impl Durability {
    /// Whether the file system makes each write durable before it returns, or sled does.
    #[must_use]
    pub const fn is_of_each_write(self) -> bool {
        matches!(self, Self::FileSystem | Self::Sled)
    }

    /// In words, for operators.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::FileSystem => "each write, by the file system",
            Self::OwnSync => "each acknowledgement, by a sync of this program",
            Self::Sled => "each write, by a sync of sled",
        }
    }
}

/// Where sled keeps values that are too large for its log, inside its folder.
pub(super) const BLOBS: &str = "blobs";
/// sled's log, inside its folder.
pub(super) const DB: &str = "db";
/// Longer than the clock of any file system takes for a tick.
const A_TICK: Duration = Duration::from_millis(50);

/// The folders of a store, and what makes their files durable.
pub(super) struct Durable {
    data_dir: PathBuf,
    graph: PathBuf,
    durability: Durability,
    /// sled's log, once it is there.
    log: Option<File>,
    blobs: Mutex<SyncedBlobs>,
}

/// Which blob files have been synced.
#[derive(Default)]
struct SyncedBlobs {
    names: HashSet<OsString>,
    /// Those that were synced, but may have been found before all was written to them: by a batch
    /// that was under way. The next flush is only made when that has ended.
    maybe_half: HashSet<OsString>,
    /// When the folder was changed, as it says itself, and when we first saw that.
    changed: Option<(SystemTime, Instant)>,
    /// No file that came later can have left the folder's time as it is.
    settled: bool,
}

impl Durable {
    /// Makes the folders, and sets the flags on them and on all files that are there. Everything
    /// that is there is on disk when this returns.
    ///
    /// # Errors
    /// When a folder cannot be made or read, or a file not be synced.
    pub(super) fn prepare(data_dir: &Path) -> Result<Self, StoreError> {
        let graph = data_dir.join("graph");
        let blobs = graph.join(BLOBS);
        fs::create_dir_all(data_dir).map_err(at(data_dir))?;
        // Of the folder's owner, who may be another: what lies in it is set and synced one by one.
        drop(flags::set(data_dir));
        let mut durability = flags::wanted();
        for folder in [&graph, &blobs] {
            let made = fs::create_dir(folder);
            let is_there = made.as_ref().is_err_and(|it| it.kind() == io::ErrorKind::AlreadyExists);
            made.or_else(|error| if is_there { Ok(()) } else { Err(error) }).map_err(at(folder))?;
            set(folder, &mut durability)?;
        }
        for name in ["MARK", "LOCK"] {
            let path = data_dir.join(name);
            if path.exists() {
                drop(flags::set(&path));
            }
        }
        let mut it = Self {
            data_dir: data_dir.to_owned(),
            graph,
            durability,
            log: None,
            blobs: Mutex::default(),
        };
        it.sync_all()?;
        Ok(it)
    }

    /// Sees to it that sled's files have the flags and are on disk, once sled has made them.
    ///
    /// # Errors
    /// When one cannot be synced.
    pub(super) fn opened(&mut self) -> Result<(), StoreError> {
        self.sync_all()?;
        let path = self.graph.join(DB);
        self.log = Some(File::open(&path).map_err(at(&path))?);
        Ok(())
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    /// Sets the flags on every file, and syncs all files and folders.
    fn sync_all(&mut self) -> Result<(), StoreError> {
        let blobs = self.graph.join(BLOBS);
        let mut synced = SyncedBlobs::default();
        for folder in [&blobs, &self.graph] {
            for entry in fs::read_dir(folder).map_err(at(folder))? {
                let entry = entry.map_err(at(folder))?;
                let path = entry.path();
                if !entry.file_type().map_err(at(&path))?.is_file() {
                    continue;
                }
                let had_flags = set(&path, &mut self.durability)?;
                // What was written with the flags on is durable already.
                if !(had_flags && folder == &blobs) {
                    sync(&path)?;
                }
                if folder == &blobs {
                    synced.names.insert(entry.file_name());
                }
            }
            sync(folder)?;
        }
        sync(&self.data_dir)?;
        if let Some(parent) = self.data_dir.parent().filter(|it| !it.as_os_str().is_empty()) {
            // Another's folder, perhaps: its name for ours is worth a try.
            drop(File::open(parent).and_then(|it| it.sync_all()));
        }
        *self.blobs.get_mut().unwrap_or_else(PoisonError::into_inner) = synced;
        Ok(())
    }

    /// Returns when everything that sled has written is on disk.
    ///
    /// # Errors
    /// When a sync fails: what it was to cover may be lost, and a later sync may not say so.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let Some(log) = &self.log else { return Ok(()) };
        if self.durability == Durability::OwnSync {
            self.sync_blobs()?;
        }
        let path = || self.graph.join(DB);
        // Both: a disk that fails one of the two calls must not be acknowledged to after the other.
        log.sync_data().map_err(|error| at(&path())(error))?;
        log.sync_all().map_err(|error| at(&path())(error))
    }

    /// Syncs the blob files that have come since the last time.
    fn sync_blobs(&self) -> Result<(), StoreError> {
        let folder = self.graph.join(BLOBS);
        let mut synced = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = fs::metadata(&folder).and_then(|it| it.modified()).map_err(at(&folder))?;
        let is_same = synced.changed.is_some_and(|(seen, _)| seen == changed);
        if is_same && synced.settled && synced.maybe_half.is_empty() {
            return Ok(());
        }
        synced.settled = is_same && synced.changed.is_some_and(|(_, it)| it.elapsed() > A_TICK);
        if !is_same {
            synced.changed = Some((changed, Instant::now()));
        }
        let (mut names, mut maybe_half) = (HashSet::new(), HashSet::new());
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let name = entry.map_err(at(&folder))?.file_name();
            if synced.names.contains(&name) {
                names.insert(name);
                continue;
            }
            match sync(&folder.join(&name)) {
                // sled has removed it meanwhile.
                Err(StoreError::File { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
            if synced.maybe_half.contains(&name) {
                names.insert(name);
            } else {
                maybe_half.insert(name);
            }
        }
        (synced.names, synced.maybe_half) = (names, maybe_half);
        sync(&folder)
    }
}

/// Sets the flags on a file or folder; the durability is what is left of it if they are not kept.
/// Whether it had them already.
fn set(path: &Path, durability: &mut Durability) -> Result<bool, StoreError> {
    let set = flags::set(path).map_err(at(path))?;
    if set == flags::Set::NotKept && *durability == Durability::FileSystem {
        *durability = Durability::OwnSync;
    }
    Ok(set == flags::Set::Before)
}

/// Syncs a file or a folder.
pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|it| it.sync_all()).map_err(at(path))
}

pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_set_on_what_is_there_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("graph/blobs")).unwrap();
        for file in ["graph/db", "graph/conf", "graph/blobs/17", "MARK"] {
            fs::write(dir.path().join(file), "old").unwrap();
        }
        let mut durable = Durable::prepare(dir.path()).unwrap();
        durable.opened().unwrap();
        if durable.durability() != Durability::FileSystem {
            println!("skipped: the file system of {} has no such flags", dir.path().display());
            return;
        }
        for path in ["graph", "graph/blobs", "graph/db", "graph/conf", "graph/blobs/17", "MARK"] {
            assert_eq!(flags::set(&dir.path().join(path)).unwrap(), flags::Set::Before, "{path}");
        }
        fs::write(dir.path().join("graph/new"), "new").unwrap();
        assert_eq!(flags::set(&dir.path().join("graph/new")).unwrap(), flags::Set::Before);
    }

    #[test]
    fn without_flags_each_new_blob_is_synced_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut durable = Durable::prepare(dir.path()).unwrap();
        fs::write(dir.path().join("graph/db"), "log").unwrap();
        durable.durability = Durability::OwnSync;
        durable.opened().unwrap();
        let synced = |it: &Durable| {
            let mut names: Vec<_> = it.blobs.lock().unwrap().names.iter().cloned().collect();
            names.sort();
            names
        };
        for name in ["1", "2"] {
            fs::write(dir.path().join("graph/blobs").join(name), "blob").unwrap();
            durable.sync().unwrap();
            assert!(!synced(&durable).contains(&name.into()));
            durable.sync().unwrap();
            assert_eq!(synced(&durable).last().unwrap(), name);
        }
        fs::remove_file(dir.path().join("graph/blobs/1")).unwrap();
        durable.sync().unwrap();
        assert_eq!(synced(&durable), ["2"]);
    }
}

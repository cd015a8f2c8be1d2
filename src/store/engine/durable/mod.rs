//! Makes the store's files survive a power cut.
//!
//! sled 0.34.7 writes its log with `pwrite` and `sync_file_range`, which neither write the file's
//! size nor flush the disk's own cache. So every directory and file of the store gets the inode
//! flags `FS_SYNC_FL` and `FS_DIRSYNC_FL` before sled creates anything: new files inherit them, and
//! each write and each change of a name is durable when it returns.
//!
//! Not every file system has these flags. They are read back; where they are not kept, the store
//! syncs its files itself before each acknowledgement. That protects less: between two syncs the
//! file system chooses the order in which parts of the log reach the disk.
//!
//! The store syncs in both cases, because its sync returns errors that sled's thread ignores.

mod flags;

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};

use super::StoreError;
use crate::sync::lock;

/// How the store's writes are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The file system: each write is durable when it returns.
    FileSystem,
    /// This program syncs before each acknowledgement. After a power cut the store may not open;
    /// then a backup has to be restored.
    OwnSync,
    /// sled syncs each write of its log, as it does on systems other than Linux; this program syncs
    /// the rest.
    Sled,
    /// fjall syncs its journal before each acknowledgement. After a power cut the store may not open;
    /// then a backup has to be restored.
    Fjall,
    /// The database server syncs each commit before it answers.
    Server,
}

impl Durability {
    /// Whether the store opens after a power cut, with everything that was acknowledged.
    #[must_use]
    pub const fn survives_power_cuts(self) -> bool {
        matches!(self, Self::FileSystem | Self::Sled | Self::Server)
    }

    /// A description for operators.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::FileSystem => "each write, by the file system",
            Self::OwnSync => "each acknowledgement, by a sync of this program",
            Self::Sled => "each write, by a sync of sled",
            Self::Fjall => "each acknowledgement, by a sync of fjall's journal",
            Self::Server => "each commit, by the database server",
        }
    }
}

/// The folder for values that are too large for sled's log, inside sled's folder.
pub(super) const BLOBS: &str = "blobs";
/// The file of sled's log, inside sled's folder.
pub(super) const DB: &str = "db";
/// Longer than the resolution of a file system's timestamps.
const TIMESTAMP_TICK: Duration = Duration::from_millis(50);

/// The folders of a store, and how their files are made durable.
pub(super) struct Durable {
    data_dir: PathBuf,
    graph: PathBuf,
    durability: Durability,
    /// The file of sled's log; `None` before sled has made it.
    log: Option<File>,
    blobs: Mutex<SyncedBlobs>,
}

/// Which blob files have been synced.
#[derive(Default)]
struct SyncedBlobs {
    names: HashSet<OsString>,
    /// Files that were synced, but perhaps while a batch was still writing to them. They are synced
    /// again at the next flush: it begins only after that batch has ended.
    maybe_half: HashSet<OsString>,
    /// The folder's modification time, and when this program first saw that time.
    changed: Option<(SystemTime, Instant)>,
    /// Whether a file created from now on must change the folder's modification time.
    is_settled: bool,
}

impl Durable {
    /// Makes the folders of a store, and sets the flags on them and on all files in them. All of them
    /// are on disk when this returns.
    pub(super) fn prepare(data_dir: &Path) -> Result<Self, StoreError> {
        let graph = data_dir.join("graph");
        let blobs = graph.join(BLOBS);
        fs::create_dir_all(data_dir).map_err(at(data_dir))?;
        // The folder may belong to another user; everything in it is set and synced on its own.
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

    /// Sets the flags on the files that sled has made, and syncs them.
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
            // The parent may belong to another user; its entry for the store is synced if possible.
            drop(File::open(parent).and_then(|it| it.sync_all()));
        }
        self.blobs = Mutex::new(synced);
        Ok(())
    }

    /// Returns when everything that sled has written is on disk.
    ///
    /// # Errors
    /// When a sync fails. Written bytes may be lost then, and a later sync may succeed all the same.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let Some(log) = &self.log else { return Ok(()) };
        if self.durability == Durability::OwnSync {
            self.sync_blobs()?;
        }
        let path = || self.graph.join(DB);
        // Both calls: if the disk fails one of them, no acknowledgement may follow the other.
        log.sync_data().map_err(|error| at(&path())(error))?;
        log.sync_all().map_err(|error| at(&path())(error))
    }

    /// Syncs the blob files that are new since the last call.
    fn sync_blobs(&self) -> Result<(), StoreError> {
        let folder = self.graph.join(BLOBS);
        let mut synced = lock(&self.blobs);
        let changed = fs::metadata(&folder).and_then(|it| it.modified()).map_err(at(&folder))?;
        let is_same = synced.changed.is_some_and(|(seen, _)| seen == changed);
        if is_same && synced.is_settled && synced.maybe_half.is_empty() {
            return Ok(());
        }
        synced.is_settled =
            is_same && synced.changed.is_some_and(|(_, it)| it.elapsed() > TIMESTAMP_TICK);
        if !is_same {
            synced.changed = Some((changed, Instant::now()));
        }
        let mut names = HashSet::new();
        let mut maybe_half = HashSet::new();
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let name = entry.map_err(at(&folder))?.file_name();
            if synced.names.contains(&name) {
                names.insert(name);
                continue;
            }
            match sync(&folder.join(&name)) {
                // sled has removed the file meanwhile.
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
        synced.names = names;
        synced.maybe_half = maybe_half;
        sync(&folder)
    }
}

/// Sets the flags on a file or folder, and lowers `durability` if it does not keep them. Returns
/// whether it had them already.
fn set(path: &Path, durability: &mut Durability) -> Result<bool, StoreError> {
    let set = flags::set(path).map_err(at(path))?;
    if set == flags::FlagsSet::NotKept && *durability == Durability::FileSystem {
        *durability = Durability::OwnSync;
    }
    Ok(set == flags::FlagsSet::Before)
}

/// Syncs a file or a folder to disk.
pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|it| it.sync_all()).map_err(at(path))
}

/// Makes an error of the operating system into one that names the path.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_set_on_existing_files_and_read_back() {
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
            assert_eq!(
                flags::set(&dir.path().join(path)).unwrap(),
                flags::FlagsSet::Before,
                "{path}"
            );
        }
        fs::write(dir.path().join("graph/new"), "new").unwrap();
        assert_eq!(flags::set(&dir.path().join("graph/new")).unwrap(), flags::FlagsSet::Before);
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

//! Opening a store and closing it. In order: nobody else has it; everything that is there has the
//! flags and is on disk; if it was not closed, a copy is kept of what sled may change; damaged
//! helper files are set aside; sled opens its log; what was made is on disk too; the store has
//! proved good, or else the copy is put back.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    DeletedRoom, EventNum, Options, REMOVAL_COUNTS, Store, StoreError, View,
    disk::Caches,
    durable::{self, Durable, at},
    flush::Flushes,
    helpers,
    kept::{Kept, is_full},
    keys,
    mark::Mark,
    panics::caught,
    removals::Removals,
    room_locks::RoomLocks,
    sealing::page_of,
    size,
    space::Space,
    watchdog::Watchdog,
};

/// How long a lock is tried for: whoever is just ending, or has just closed the store, holds it a
/// moment longer, as sled's threads do.
const LOCK_TRIES: u32 = 200;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);
/// How often sled tidies up. We flush before each acknowledgement and need no other flush; but the
/// same thread of sled's moves what is left in segments that are mostly dead, so that these can be
/// used again, one segment a time. Without it, or with longer pauses, such segments pile up as fast
/// as events are loaded: twice to three times the disk. It costs an fsync each time, also of a store
/// that nobody writes to: more often than this saves no more.
const TIDY_EVERY_MS: u64 = 10;
/// What sled says when its own lock is held. Ours is taken by then, so nobody is there to stay.
const SLED_IS_LOCKED: &str = "could not acquire lock";
/// The file that is there while the store is open.
const MARKER: &str = "OPEN";
/// Rooms whose newest events are read before an opening after a crash is taken to be good.
const PROVED_ROOMS: usize = 1_000;

impl Store {
    /// Opens the store, and makes it if it is not there. A store that was not closed and does not
    /// open is left as it was found.
    ///
    /// # Errors
    /// When another process has it open, when it is damaged, or of a newer format; when the file
    /// system does not make each write durable and that is required.
    pub fn open(options: &Options) -> Result<Self, StoreError> {
        let data_dir = &options.data_dir;
        fs::create_dir_all(data_dir).map_err(at(data_dir))?;
        let lock = lock(data_dir)?;
        let durable = Durable::prepare(data_dir)?;
        require(options, &durable)?;
        let marker = data_dir.join(MARKER);
        let kept = match Kept::find(data_dir)? {
            Some(kept) => {
                kept.put_back()?;
                Some(kept)
            }
            None if marker.exists() => Kept::keep(data_dir, size::free_bytes(data_dir)?)?,
            None => None,
        };
        if kept.is_some() {
            tracing::info!("the store was not closed; a copy is kept until it has proved good");
        }
        let Some(kept) = kept else { return Self::attempt(options, &lock) };
        let opened = Self::attempt_again(options, &lock, &kept);
        match &opened {
            Ok(_) => kept.discard()?,
            Err(StoreError::InUse(_)) => {}
            Err(_) => {
                kept.put_back()?;
                kept.discard()?;
            }
        }
        opened
    }

    /// Opens a store of which a copy is kept: with sled's snapshot, and then without it.
    fn attempt_again(options: &Options, lock: &File, kept: &Kept) -> Result<Self, StoreError> {
        let opened = Self::attempt(options, lock).and_then(Self::proved);
        let data_dir = &options.data_dir;
        let has_snapshot = !helpers::snapshots(&data_dir.join("graph"))?.is_empty();
        match opened {
            Err(StoreError::NotOpened { .. } | StoreError::CutOff { .. }) if has_snapshot => {}
            opened => return opened,
        }
        kept.put_back()?;
        helpers::set_snapshots_aside(data_dir)?;
        let without = Self::attempt(options, lock).and_then(Self::proved);
        // What was said of it with everything that is there.
        without.or(opened)
    }

    /// Opens a store, and notes that it is open.
    fn attempt(options: &Options, lock: &File) -> Result<Self, StoreError> {
        let data_dir = &options.data_dir;
        helpers::check(data_dir)?;
        let marker = data_dir.join(MARKER);
        note_open(&marker)?;
        let config = sled::Config::new()
            .path(data_dir.join("graph"))
            .cache_capacity(options.cache_bytes - options.cache_bytes / 8 - options.cache_bytes / 4)
            .flush_every_ms(Some(TIDY_EVERY_MS));
        let not_opened = |said| StoreError::NotOpened { data_dir: data_dir.clone(), said };
        let tree = patiently(|| match caught(|| config.open()) {
            Ok(Err(sled::Error::Io(error))) if error.to_string().contains(SLED_IS_LOCKED) => {
                Err(StoreError::InUse(data_dir.clone()))
            }
            Ok(Err(error)) => Err(not_opened(error.to_string())),
            Err(StoreError::Panicked(said)) => Err(not_opened(said)),
            Err(other) => Err(other),
            Ok(Ok(opened)) => Ok(opened),
        })?;
        let mut durable = Durable::prepare(data_dir)?;
        durable.opened()?;
        require(options, &durable)?;
        let lock_path = data_dir.join("LOCK");
        let store = Self {
            tree: tree.clone(),
            next_room: AtomicU32::new(0),
            room_locks: RoomLocks::default(),
            erased_users: RwLock::default(),
            flushes: Flushes::default(),
            mark: Mark::new(data_dir),
            caches: Caches::new(options.cache_bytes / 8, options.cache_bytes / 4),
            data_dir: data_dir.clone(),
            space: Space::new(options.reserved_bytes),
            removals: (0..REMOVAL_COUNTS).map(|_| Removals::default()).collect(),
            purging: Mutex::default(),
            failed: AtomicBool::new(false),
            unflushed: AtomicUsize::new(0),
            closing: Closing {
                marker,
                durable,
                is_clean: AtomicBool::new(false),
                tree: Some(tree),
            },
            watchdog: Watchdog::start(options.flush_timeout),
            #[cfg(test)]
            touched: std::sync::atomic::AtomicU64::default(),
            _lock: lock.try_clone().map_err(at(&lock_path))?,
        };
        let read = caught(|| {
            store.check_mark()?;
            store.check_format()?;
            store.load()
        });
        store.unless_failed(read)
    }

    fn load(&self) -> Result<(), StoreError> {
        let last = self.tree.scan_prefix(keys::rooms()).keys().next_back().transpose()?;
        let held = last.and_then(|key| keys::room_of(&key));
        let deleted = self.deleted_rooms()?.into_iter().map(DeletedRoom::number);
        let next = deleted.chain(held).max().map_or(0, |it| it.0 + 1);
        self.next_room.store(next, Ordering::Relaxed);
        let users = self.scan(&keys::erased_users(), None, usize::MAX)?;
        let users = users.iter().filter_map(|(key, _)| keys::text(key)).map(str::to_owned);
        let users: BTreeSet<String> = users.collect();
        *self.erased_users.write().unwrap_or_else(PoisonError::into_inner) = users;
        Ok(())
    }

    /// Reads what was written last: sled reads much of it only when it is asked for.
    fn proved(self) -> Result<Self, StoreError> {
        let read = caught(|| {
            for number in self.room_nums(None, PROVED_ROOMS)? {
                // Damaged, it is for `verify` to name.
                let Ok(Some(room)) = self.find_room(number) else { continue };
                let Some(newest) = room.next_event.0.checked_sub(1).map(EventNum) else { continue };
                self.value(&keys::page(number, page_of(newest)))?;
                self.value(&keys::body(number, newest))?;
            }
            Ok(())
        });
        self.unless_failed(read)
    }

    /// The store, unless what was read of it went wrong; then it writes nothing more.
    fn unless_failed(
        self,
        read: Result<Result<(), StoreError>, StoreError>,
    ) -> Result<Self, StoreError> {
        let said = match read.and_then(|it| it) {
            Ok(()) => return Ok(self),
            Err(StoreError::Sled(error)) => error.to_string(),
            Err(StoreError::Panicked(said)) => said,
            Err(other) => {
                self.failed.store(true, Ordering::SeqCst);
                return Err(other);
            }
        };
        self.failed.store(true, Ordering::SeqCst);
        Err(StoreError::NotOpened { data_dir: self.data_dir.clone(), said })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // A failed store may have written less than was counted.
        if self.has_failed() {
            return;
        }
        let _watched = self.watchdog.watch("the closing of the store");
        let closed = caught(|| self.flush_uncounted().and_then(|()| self.mark.write()));
        if closed.and_then(|it| it).is_ok() {
            self.closing.is_clean.store(true, Ordering::SeqCst);
        }
    }
}

/// What is left to do when a store is closed, and what it needs for that.
pub(super) struct Closing {
    /// A file that is there while the store is open: found at an opening, it says that the store
    /// was not closed.
    marker: PathBuf,
    pub(super) durable: Durable,
    is_clean: AtomicBool,
    /// The last to hold sled, which panics in its end when the disk fails.
    tree: Option<sled::Db>,
}

/// Notes on the disk that the store is open. On a full disk there is no note.
fn note_open(marker: &Path) -> Result<(), StoreError> {
    let made = File::create(marker).and_then(|it| it.sync_all());
    made.or_else(|error| if is_full(&error) { Ok(()) } else { Err(at(marker)(error)) })?;
    marker.parent().map_or(Ok(()), durable::sync)
}

impl Drop for Closing {
    fn drop(&mut self) {
        let tree = self.tree.take();
        // sled writes until it is dropped.
        let is_ended = caught(|| drop(tree)).is_ok();
        let is_clean = self.is_clean.load(Ordering::SeqCst);
        if is_ended && is_clean && self.durable.sync().is_ok() {
            // If it stays, the next opening is only slower.
            drop(fs::remove_file(&self.marker));
        }
    }
}

/// Takes the store for this process.
fn lock(data_dir: &Path) -> Result<File, StoreError> {
    let path = data_dir.join("LOCK");
    let lock = File::create(&path).map_err(at(&path))?;
    patiently(|| match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(data_dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(at(&path)(source)),
    })?;
    Ok(lock)
}

fn require(options: &Options, durable: &Durable) -> Result<(), StoreError> {
    if options.require_durable && !durable.durability().is_of_each_write() {
        return Err(StoreError::NotDurable(options.data_dir.clone()));
    }
    Ok(())
}

/// Tries again while somebody else has the store, for two seconds.
#[expect(
    clippy::disallowed_methods,
    reason = "no event says that another process has released the lock"
)]
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    for _ in 1..LOCK_TRIES {
        match attempt() {
            Err(StoreError::InUse(_)) => thread::sleep(BETWEEN_TRIES),
            done => return done,
        }
    }
    attempt()
}

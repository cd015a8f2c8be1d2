//! Opens the local engine. In order:
//!
//! 1. The directory is locked: no other process has the store open.
//! 2. Everything in it gets the inode flags and is synced: [`durable`].
//! 3. If the store was not closed, everything that sled may change is copied: [`log_copy`](super::log_copy).
//! 4. Damaged helper files are set aside: [`helper_files`].
//! 5. sled opens its log, and the files that it made are synced too.
//! 6. The caller reads the store. If that succeeds the copy is removed; if not, it is put back.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize},
    thread,
    time::Duration,
};

use super::{
    Local, StoreError,
    durable::{self, Durable, at},
    fjall,
    group_commit::GroupCommit,
    helper_files,
    local::Closing,
    log_copy::LogCopy,
    mark::Mark,
    panics::caught,
    sled::{NotOpened, Tree},
    volume::{free_bytes, is_full},
    watchdog::Watchdog,
};
use crate::store::{EngineError, Options};

/// How often a lock is tried for. A process that is ending, or that has just closed the store,
/// holds the lock a moment longer, since sled's threads do.
const LOCK_TRIES: u32 = 200;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);
/// The file that exists while the store is open.
const MARKER: &str = "OPEN";

/// How the store was left before it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum State {
    /// It was closed, or it is new.
    Closed,
    /// Its process ended without closing it.
    Crashed,
}

/// What is needed to open the engine.
#[derive(Clone, Copy)]
struct Opening<'o> {
    data_dir: &'o Path,
    options: &'o Options,
    lock: &'o File,
}

/// Opens the store in a directory, and makes it if it does not exist. `read` reads what it needs and
/// returns the store; it may be called twice, and must call [`Local::give_up`] if it fails. A store
/// that was not closed and does not open is left as it was found.
///
/// # Errors
/// When another process has the store open; when it is damaged; when the file system does not make
/// each write durable and the options require that; and every error of `read`.
pub(in crate::store) fn open<S>(
    data_dir: &Path,
    options: &Options,
    read: impl Fn(Local, State) -> Result<S, StoreError>,
) -> Result<S, StoreError> {
    fs::create_dir_all(data_dir).map_err(at(data_dir))?;
    if data_dir.join(fjall::FOLDER).exists() {
        return Err(StoreError::OtherEngine { data_dir: data_dir.to_owned(), engine: "fjall" });
    }
    let lock = lock_directory(data_dir)?;
    let durable = Durable::prepare(data_dir)?;
    let opening = Opening { data_dir, options, lock: &lock };
    opening.require(&durable)?;
    let copy = match LogCopy::find(data_dir)? {
        Some(copy) => {
            copy.put_back()?;
            Some(copy)
        }
        None if data_dir.join(MARKER).exists() => LogCopy::make(data_dir, free_bytes(data_dir)?)?,
        None => None,
    };
    let Some(copy) = copy else {
        return opening.attempt().and_then(|it| read(it, State::Closed));
    };
    tracing::info!("the store was not closed; a copy of its log is kept until it has been read");
    let opened = opening.attempt_with_copy(&copy, &read);
    match &opened {
        Ok(_) => copy.discard()?,
        Err(StoreError::InUse(_)) => {}
        Err(_) => {
            copy.put_back()?;
            copy.discard()?;
        }
    }
    opened
}

impl Opening<'_> {
    /// Opens a store of which a copy is kept: with sled's snapshot, and then without it.
    fn attempt_with_copy<S>(
        self,
        copy: &LogCopy,
        read: &impl Fn(Local, State) -> Result<S, StoreError>,
    ) -> Result<S, StoreError> {
        let attempt = || self.attempt().and_then(|it| read(it, State::Crashed));
        let opened = attempt();
        let data_dir = self.data_dir;
        let has_snapshot = !helper_files::snapshots(&data_dir.join("graph"))?.is_empty();
        match opened {
            Err(StoreError::NotOpened { .. } | StoreError::CutOff { .. }) if has_snapshot => {}
            opened => return opened,
        }
        copy.put_back()?;
        helper_files::set_snapshots_aside(data_dir)?;
        // If this fails too, the first error is returned: it is about all that there is.
        attempt().or(opened)
    }

    /// Opens the engine, and notes on disk that the store is open.
    fn attempt(self) -> Result<Local, StoreError> {
        let Self { data_dir, options, lock } = self;
        helper_files::check(data_dir)?;
        let marker = data_dir.join(MARKER);
        note_open(&marker)?;
        let cache_bytes = options.engine_cache_bytes();
        let not_opened = |said| StoreError::NotOpened { data_dir: data_dir.to_owned(), said };
        let tree =
            patiently(|| match caught(|| Tree::open(&data_dir.join("graph"), cache_bytes)) {
                Ok(Ok(opened)) => Ok(opened),
                Ok(Err(NotOpened::Locked)) => Err(StoreError::InUse(data_dir.to_owned())),
                Ok(Err(NotOpened::Failed(said)))
                | Err(StoreError::Engine(EngineError::Panicked(said))) => Err(not_opened(said)),
                Err(other) => Err(other),
            })?;
        let mut durable = Durable::prepare(data_dir)?;
        durable.opened()?;
        self.require(&durable)?;
        let lock_path = data_dir.join("LOCK");
        let local = Local {
            tree: tree.clone(),
            data_dir: data_dir.to_owned(),
            flushes: GroupCommit::default(),
            mark: Mark::new(data_dir),
            failed: AtomicBool::new(false),
            unflushed: AtomicUsize::new(0),
            closing: Closing {
                marker,
                durable,
                is_clean: AtomicBool::new(false),
                tree: Some(tree),
            },
            watchdog: Watchdog::start(options.flush_timeout),
            _lock: lock.try_clone().map_err(at(&lock_path))?,
        };
        match caught(|| local.check_mark()).and_then(|it| it) {
            Ok(()) => Ok(local),
            Err(failure) => Err(local.give_up(failure)),
        }
    }

    /// Refuses a file system that is less durable than the options require.
    fn require(self, durable: &Durable) -> Result<(), StoreError> {
        if self.options.require_durable && !durable.durability().survives_power_cuts() {
            return Err(StoreError::NotDurable(self.data_dir.to_owned()));
        }
        Ok(())
    }
}

/// Notes on disk that the store is open. On a full disk there is no note.
fn note_open(marker: &Path) -> Result<(), StoreError> {
    let made = File::create(marker).and_then(|it| it.sync_all());
    made.or_else(|error| if is_full(&error) { Ok(()) } else { Err(at(marker)(error)) })?;
    marker.parent().map_or(Ok(()), durable::sync)
}

/// Locks a directory for this process.
pub(super) fn lock_directory(data_dir: &Path) -> Result<File, StoreError> {
    let path = data_dir.join("LOCK");
    let lock = File::create(&path).map_err(at(&path))?;
    patiently(|| match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(data_dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(at(&path)(source)),
    })?;
    Ok(lock)
}

/// Tries again while another process has the store, for two seconds.
#[expect(
    clippy::disallowed_methods,
    reason = "no event says that another process has released the lock"
)]
pub(super) fn patiently<T>(
    mut attempt: impl FnMut() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    for _ in 1..LOCK_TRIES {
        match attempt() {
            Err(StoreError::InUse(_)) => thread::sleep(BETWEEN_TRIES),
            done => return done,
        }
    }
    attempt()
}

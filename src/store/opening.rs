//! Opens a store: the engine first, then the format, the numbers, the erased users and the rooms
//! that are not served; and, after a crash, the newest events of each room, to prove that the log
//! was read to its end.

use std::sync::{
    Mutex, RwLock,
    atomic::{AtomicU32, Ordering},
};

use super::{
    DeletedRoom, EventNum, Options, Place, Store, StoreError, View as _,
    caches::Caches,
    engine::{self, Engine, State, caught},
    keys,
    leases::Leases,
    record::page_of,
    removals::{REMOVAL_COUNTS, Removals},
    repairs::Repairs,
    room_locks::RoomLocks,
    sets::FollowedSets,
    space::Space,
};

/// Rooms whose newest events are read before an opening after a crash counts as successful.
const PROVED_ROOMS: usize = 1_000;

impl Store {
    /// Opens the store, and makes it if it does not exist. A store that was not closed and does not
    /// open is left as it was found.
    ///
    /// # Errors
    /// When another process has it open, when it is damaged, or of a newer format; when the file
    /// system does not make each write durable and that is required.
    pub fn open(options: &Options) -> Result<Self, StoreError> {
        let store = Self::open_any(options)?;
        if store.is_being_copied()? {
            return Err(StoreError::BeingCopied(options.place.clone()));
        }
        Ok(store)
    }

    /// Opens a store as [`open`](Self::open) does, also one that is being copied into.
    pub(super) fn open_any(options: &Options) -> Result<Self, StoreError> {
        match &options.place {
            Place::Sled(data_dir) => engine::open(data_dir, options, |local, state| {
                Self::read_opened(Engine::Local(local), options, state)
            }),
            Place::Postgres(place) => {
                let patience = options.store_patience;
                let engine = engine::Postgres::open(place, options.engine_cache_bytes(), patience)?;
                Self::read_opened(Engine::Postgres(engine), options, State::Closed)
            }
            Place::Fjall(data_dir) => {
                let engine = Engine::Fjall(engine::Fjall::open(data_dir, options)?);
                Self::read_opened(engine, options, State::Closed)
            }
        }
    }

    /// A store over an engine that was opened, after what it needs was read.
    fn read_opened(engine: Engine, options: &Options, state: State) -> Result<Self, StoreError> {
        let store = Self::over(engine, options);
        let read = caught(|| {
            store.check_format()?;
            store.load()?;
            if state == State::Crashed { store.prove() } else { Ok(()) }
        });
        match read.and_then(|it| it) {
            Ok(()) => Ok(store),
            Err(failure) => Err(store.engine.give_up(failure)),
        }
    }

    /// An empty store in memory, whose conditional commits conflict at random: one in `one_in`, none
    /// if that is 0.
    #[cfg(test)]
    pub(crate) fn with_conflicts(seed: u64, one_in: u64) -> Self {
        let engine = Engine::Test(engine::TestEngine::new(seed, one_in));
        let store = Self::over(engine, &Options::small(std::path::Path::new("")));
        store.check_format().expect("a map in memory takes every write");
        store
    }

    /// An empty store in memory that counts round trips: see [`Self::take_flights`].
    #[cfg(test)]
    pub(crate) fn counting_flights() -> Self {
        let engine = Engine::Test(engine::TestEngine::counting());
        let store = Self::over(engine, &Options::small(std::path::Path::new("")));
        store.check_format().expect("a map in memory takes every write");
        store
    }

    /// Stores over one map in memory, empty: each is that of a process.
    #[cfg(test)]
    pub(crate) fn sharing(count: usize) -> Vec<Self> {
        let open = |engine| {
            let options = Options::small(std::path::Path::new(""));
            let store = Self::over(Engine::Test(engine), &options);
            store.check_format().expect("a map in memory takes every write");
            store
        };
        engine::TestEngine::sharing(count).into_iter().map(open).collect()
    }

    /// A store over an engine that is open. Nothing is read yet.
    fn over(engine: Engine, options: &Options) -> Self {
        Self {
            engine,
            next_room: AtomicU32::new(0),
            room_locks: RoomLocks::default(),
            erased_users: RwLock::default(),
            rooms_not_served: RwLock::default(),
            putting_cursor: Mutex::default(),
            bans: RwLock::default(),
            followed_sets: FollowedSets::default(),
            leases: Leases::default(),
            repairs: Repairs::default(),
            patience: options.store_patience,
            redacted_search: Mutex::default(),
            redacted_content: options.redacted_content,
            caches: Caches::new(options.cache_bytes / 8, options.cache_bytes / 4),
            space: Space::new(options.reserved_bytes),
            removals: (0..REMOVAL_COUNTS).map(|_| Removals::default()).collect(),
            purging: Mutex::default(),
            #[cfg(test)]
            touched: std::sync::atomic::AtomicU64::default(),
        }
    }

    /// Reads the next room's number, unless the engine numbers rooms itself, the erased users and the
    /// rooms that are not served.
    fn load(&self) -> Result<(), StoreError> {
        if !self.is_shared() {
            self.load_next_room()?;
        }
        self.load_rooms_not_served()?;
        self.load_ban_redactions()?;
        self.load_erased_users()
    }

    fn load_next_room(&self) -> Result<(), StoreError> {
        let held = self.engine.last_key(&keys::rooms())?.and_then(|key| keys::room_of(&key));
        let deleted = self.deleted_rooms()?.into_iter().map(DeletedRoom::number);
        let next = deleted.chain(held).max().map_or(0, |it| it.0 + 1);
        self.next_room.store(next, Ordering::Relaxed);
        Ok(())
    }

    /// Reads the records that were written last: sled reads much of its log only on demand.
    fn prove(&self) -> Result<(), StoreError> {
        for number in self.room_nums(None, PROVED_ROOMS)? {
            // A damaged record of a room is reported by `verify`.
            let Ok(Some(room)) = self.find_room(number) else { continue };
            let Some(newest) = room.next_event.0.checked_sub(1).map(EventNum) else { continue };
            let keys = [keys::page(number, page_of(newest)), keys::body(number, newest)];
            self.values(&keys)?;
        }
        Ok(())
    }
}

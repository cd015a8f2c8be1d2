//! Repairs of a store that several processes share: while one of them repairs it, the others answer and
//! change nothing.

use std::{
    sync::{
        Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{HeldLease, Leased, Store, StoreError, View as _, keys};
use crate::sync::{lock, read, write};

/// How long a repair may be silent before the other processes go on.
pub const REPAIR_TIME: Duration = Duration::from_secs(60);
/// The time between two looks whether another repair has ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The repair of another process, as this process knows it.
#[derive(Default)]
pub(super) struct Repairs {
    /// When this process read that the lease is held, the last time that its record had changed.
    running: RwLock<Option<Instant>>,
    /// Whether this process repairs the store.
    is_own: AtomicBool,
}

/// While it exists, no other process answers or changes anything.
pub struct RepairAlone<'s> {
    store: &'s Store,
    /// `None` in a store of one process, and when the lease was lost.
    lease: Mutex<Option<HeldLease>>,
}

impl Store {
    /// Keeps other processes from using the store. Waits as long as `patience` for a repair by another
    /// process: one that was cut off counts for [`REPAIR_TIME`] more.
    ///
    /// # Errors
    /// [`StoreError::BeingRepaired`] if the other repair has not ended by then.
    pub fn repair_alone(&self, patience: Duration) -> Result<RepairAlone<'_>, StoreError> {
        if !self.is_shared() {
            return Ok(RepairAlone { store: self, lease: Mutex::new(None) });
        }
        let begun = Instant::now();
        let lease = loop {
            if let Some(lease) = self.try_lease_for(Leased::Repair, REPAIR_TIME)? {
                break lease;
            }
            if begun.elapsed() >= patience {
                return Err(StoreError::BeingRepaired);
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "no event of this process ends the wait"
            )]
            thread::sleep(LOOK_EVERY);
        };
        self.repairs.is_own.store(true, Ordering::Release);
        Ok(RepairAlone { store: self, lease: Mutex::new(Some(lease)) })
    }

    /// Reads whether the store is being repaired.
    pub(super) fn load_repair(&self) -> Result<(), StoreError> {
        let key = keys::repair();
        let is_held = self.value(&key)?.is_some_and(|it| Self::is_lease_held(&key, &it));
        *write(&self.repairs.running) = is_held.then(Instant::now);
        Ok(())
    }

    /// Checks that no other process repairs the store.
    pub(super) fn check_repair(&self) -> Result<(), StoreError> {
        let running = read(&self.repairs.running);
        let is_running = running.is_some_and(|since| since.elapsed() < REPAIR_TIME);
        if is_running && !self.repairs.is_own.load(Ordering::Acquire) {
            return Err(StoreError::BeingRepaired);
        }
        Ok(())
    }
}

impl RepairAlone<'_> {
    /// Makes the repair go on alone for a while. To be called often.
    pub fn prolong(&self) {
        let mut lease = lock(&self.lease);
        if let Some(held) = &mut *lease
            && !matches!(self.store.prolong(held), Ok(true))
        {
            // `check` tells.
            *lease = None;
        }
    }

    /// Checks that the repair is still alone.
    ///
    /// # Errors
    /// [`StoreError::BeingRepaired`] if it is not.
    pub fn check(&self) -> Result<(), StoreError> {
        self.prolong();
        let is_alone = !self.store.is_shared() || lock(&self.lease).is_some();
        if is_alone { Ok(()) } else { Err(StoreError::BeingRepaired) }
    }
}

impl Drop for RepairAlone<'_> {
    fn drop(&mut self) {
        if let Some(lease) = &*lock(&self.lease) {
            self.store.release(lease);
        }
        // A change by this process is not learnt of as one.
        *write(&self.store.repairs.running) = None;
        self.store.repairs.is_own.store(false, Ordering::Release);
    }
}

//! The sets of records that are kept in memory, in a store that several processes share: a set that
//! was changed is read anew before anything more is answered.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Store, StoreError, engine::Set};
use crate::sync::lock;

/// How far the sets in memory follow those that are stored.
#[derive(Default)]
pub(super) struct FollowedSets {
    erased_users: FollowedSet,
    rooms_not_served: FollowedSet,
    bans: FollowedSet,
    repair: FollowedSet,
    /// Held while a set is read.
    reading: Mutex<()>,
}

/// The count of changes that a set in memory contains.
#[derive(Default)]
struct FollowedSet(AtomicU64);

impl Store {
    /// Whether several processes may have the store open.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.engine.is_shared()
    }

    /// How long the database of a shared store may be away before this process counts as not serving.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Learns which sets were changed, by whichever process, and reads those anew. Only needed where no
    /// number of a room is read.
    ///
    /// # Errors
    /// When the store fails: then nothing may be answered from memory.
    pub fn learn_sets(&self) -> Result<(), StoreError> {
        self.engine.learn_sets()?;
        self.follow_sets()
    }

    /// Reads those sets anew that are known to have changed.
    ///
    /// # Errors
    /// [`StoreError::BeingRepaired`] while another process repairs the store.
    pub(super) fn follow_sets(&self) -> Result<(), StoreError> {
        if !self.engine.is_shared() {
            return Ok(());
        }
        let FollowedSets { erased_users, rooms_not_served, bans, repair, reading } =
            &self.followed_sets;
        for (set, followed) in [
            (Set::ErasedUsers, erased_users),
            (Set::RoomsNotServed, rooms_not_served),
            (Set::Bans, bans),
            (Set::Repair, repair),
        ] {
            if followed.0.load(Ordering::Acquire) == self.engine.foreign_changes(set) {
                continue;
            }
            // Others that have learnt of the change wait for it, too.
            let _reading = lock(reading);
            let changes = self.engine.foreign_changes(set);
            if followed.0.load(Ordering::Acquire) == changes {
                continue;
            }
            match set {
                Set::ErasedUsers => self.load_erased_users()?,
                Set::RoomsNotServed => self.load_rooms_not_served()?,
                Set::Bans => self.load_ban_redactions()?,
                Set::Repair => self.load_repair()?,
            }
            followed.0.store(changes, Ordering::Release);
        }
        self.check_repair()
    }
}

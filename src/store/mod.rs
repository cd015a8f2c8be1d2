//! The store: all rooms, on disk. It knows nothing of requests and of who may see what.
//!
//! # The keyspace
//!
//! One ordered map from keys to values. A key is a tag byte and the parts below, big-endian and of
//! fixed width (a last part may have any length), so that records that are read together are
//! neighbours. Rooms and events have numbers, given in the order in which they are stored. An id
//! is looked up once, inside its room: the id of an event of another room is not found.
//!
//! ```text
//! 00                               format        version of this layout
//! 00 "mark"                        number of flushes so far
//! 00 "copy"                        the store is being copied into, and nothing else opens it
//! 00 "cont"                        how far the search for events redacted before format 5 is
//! 01 room id                       number of the room; empty: deleted, and may not return
//! 02 room                          Room          version, counters, extremities, current state
//! 03 room hash(event id)           number of the event; empty: purged, and may not return
//! 04 room page                     Page          32 events: depth, arrival, flags, state, edges
//! 05 room event                    Body          event id, PDU as received (compressed); of events
//!                                                in a page that is not full, and of long events
//! 06 room hash(event id) follower  a predecessor that is not placed, and the event that names it
//! 07 room event follower           an event whose state waits for the state of another
//! 08 room arrival event            an event whose arrival differs from its number
//! 09 room state                    StateFacts, and the nodes of the map that this state added
//! 0a                               redactions before format 4
//! 0b user id                       a user who asked for erasure
//! 0c room event                    the state that was received with the event
//! 0d room event                    an event whose state may be known now: work to be done
//! 0e server name                   FetchedKeys   the server's signing keys, and when they were fetched
//! 0f room hash(event id) event     an event that is not held, and an event whose given state names it
//! 10 room                          a deleted room whose records are still being removed
//! 11                               "mark" before format 3
//! 12 room page                     Block         the other bodies of a full page, in one value
//! 13 room arrival event            a forward extremity, last arrival first: the state after it
//! 14 room hash(target id) n event  a redaction of the target; n: whether it takes effect
//! 15 room arrival event            a power levels event, last arrival first
//! 16 room arrival event            a redaction that needs power
//! 17 room                          the room is being derived again, so it is not served
//! 17 room event                    DeriveAgain   what is to be derived again for the event
//! 18 feeder name                   the cursor of a feeder
//! 19 room id                       why the room is not served to other servers
//! 1a room event 0                  a redacted event whose content is to be removed, and since when
//! 1a room event 1                  Remains       what stays of it for deriving, if anything
//! 1b 0 room id user id             BanRedaction  a ban that redacts; the length of the room id first
//! 1b 1 room id user id             how far the events of that user were searched; gone when all were
//! 1c name                          LeaseRecord   a lease, in a store that several processes share
//! 1c "sizes"                       Measurement   the sizes of such a store
//! 1d                               LeaseRecord   the lease of a repair, during which nothing is served
//! ```
//!
//! Every value ends with a checksum of its key and value.
//!
//! # Promises
//!
//! - One decision about a room is one [`Edit`], and one atomic batch: [`Store::decide`]. All
//!   records are in one map because a batch over several would not be atomic in a crash.
//! - Everything written before a call of [`Store::flush`] is on disk when it returns. Callers that
//!   flush at the same time share one flush.
//! - Only [`engine`] knows how records are kept: see there, and `docs/decisions/0001-sled.md`.

mod ahead;
mod ban_redactions;
mod blocks;
mod body;
mod caches;
mod codec;
mod compression;
mod content_due;
mod copying;
mod copying_rooms;
mod cursors;
mod decide;
mod deletion;
mod deriving;
mod edit;
mod edit_view;
mod engine;
mod erasure;
mod error;
mod format;
mod held_ids;
mod judged;
mod keys;
mod leases;
mod measurement;
mod nodes;
mod notes;
mod numbers;
mod opening;
mod options;
mod orphans;
mod place;
mod reading;
mod record;
mod removals;
mod repairs;
mod room_identity;
mod room_locks;
mod rooms;
mod rooms_not_served;
mod server_keys;
mod sets;
mod size;
mod space;
mod test_place;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, RwLock, atomic::AtomicU32},
    time::Duration,
};

pub use ahead::{ExpectedEvent, ExpectedQuestion};
pub use ban_redactions::{BanRedaction, BanSearch, BannedUser, SentEvent};
pub use body::Body;
pub use caches::ContentKey;
pub use content_due::{ContentDue, ContentDueCount, RedactedSearch, Remains};
pub use cursors::MAX_CURSORS;
pub use decide::Decision;
pub use deletion::{DeletedRoom, RoomIds};
pub use deriving::{DeriveAgain, Deriving, NotedAgain};
pub use edit::Edit;
use engine::Engine;
pub use engine::{
    Durability, EngineCounts, Preparation, Replication, StoredValue, caught, prepare, until,
};
pub use error::{EngineError, StoreError};
pub use held_ids::{HeldId, HeldIds, RoomFlags};
pub use judged::{Judged, PowerEvent};
pub use keys::{PAGE_EVENTS, Part};
pub use leases::{HeldLease, Leased};
pub use measurement::Measurement;
pub use nodes::{StateNodes, Topology};
pub use notes::{Follower, Judgement, Power, Unsettled};
pub use numbers::{EventNum, RoomNum, StateNum};
pub use options::{Options, RedactedContent};
pub use orphans::{Cursor, Orphan, OrphanReason};
pub use place::{Place, PlaceError, PostgresPlace};
pub use record::{
    Arrival, EventNode, Extremity, FetchedKeys, Flags, GivenEvent, PrevEvent, Room, StateFacts,
};
use removals::Removals;
pub use removals::{Moment, PurgeAlone, Removed};
pub use repairs::{REPAIR_TIME, RepairAlone};
pub use room_identity::{RoomIdentity, RoomStamp};
use room_locks::RoomLocks;
pub use rooms_not_served::{NotServedReason, RoomNotServed};
use space::Space;
pub use view::{FoundNum, PurgedIds, View};

/// An open store. Shared by reference; one process at a time has it open.
pub struct Store {
    engine: Engine,
    /// The number of the next room that is made.
    next_room: AtomicU32,
    room_locks: RoomLocks,
    erased_users: RwLock<BTreeSet<String>>,
    rooms_not_served: RwLock<BTreeMap<String, NotServedReason>>,
    /// Held while a cursor is stored.
    putting_cursor: Mutex<()>,
    bans: RwLock<ban_redactions::Bans>,
    followed_sets: sets::FollowedSets,
    leases: leases::Leases,
    repairs: repairs::Repairs,
    patience: Duration,
    /// How far a shared store was searched for redacted events by this process.
    redacted_search: Mutex<RedactedSearch>,
    redacted_content: RedactedContent,
    caches: caches::Caches,
    space: Space,
    /// Counts of removals; rooms share them by a hash of their ids.
    removals: Vec<Removals>,
    /// Held by the purge that is running.
    purging: Mutex<()>,
    /// Records read and written.
    #[cfg(test)]
    pub(crate) touched: std::sync::atomic::AtomicU64,
}

impl Store {
    /// Returns when everything written before the call is on disk.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.engine.flush()
    }

    /// Whether a write has failed: then nothing can be relied on before the store is opened again.
    pub fn has_failed(&self) -> bool {
        self.engine.has_failed()
    }

    /// How long the content of redacted events is kept.
    pub fn redacted_content(&self) -> RedactedContent {
        self.redacted_content
    }

    /// How the store's writes are made durable.
    pub fn durability(&self) -> Durability {
        self.engine.durability()
    }
}

#[cfg(test)]
mod tests;

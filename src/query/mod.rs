//! Use cases that read: one file for each question, named like its RPC.
//!
//! Every answer is bounded, whatever the question says. The checks for another server run in this
//! order: whether it may ask at all, then whether the parameters are valid, then the work. So a
//! server that may not ask learns nothing, not even about its own mistakes.
//!
//! Questions that the gateway asks for other servers are [`Backfill`], [`GetMissingEvents`] and
//! [`CompareAnswers`].
//! Everything else is for internal callers.

mod admission;
mod backfill;
mod ban_redactions;
mod compare_answers;
mod error;
mod events;
mod explain_access;
#[cfg(test)]
mod flights;
mod form;
mod get_missing_events;
mod get_state;
mod list_event_flags;
mod list_purged_events;
mod page;
mod paging;
mod question;
mod retry_if_removed;
mod room_digest;
mod rooms;
mod servable;
mod shared_sizes;
mod state_needed;
mod stats;
mod tombstones;

pub use backfill::Backfill;
pub use ban_redactions::{BanList, ListBanRedactions};
pub use compare_answers::{
    CompareAnswers, ComparedQuestion, Comparison, EventDifference, EventDigest,
};
pub use error::QueryError;
pub use events::{BatchGetEvents, EventList, ListEvents, ListStateAfter, RoomEvent, RoomEvents};
pub use explain_access::{Access, ExplainAccess, Explanation};
pub use get_missing_events::GetMissingEvents;
pub use get_state::{GetState, StateEntry, StatePage};
pub use list_event_flags::{EventFlags, EventFlagsList, ListEventFlags};
pub use list_purged_events::{ListPurgedEvents, PurgedList};
pub use page::{ServedEvent, ServedPage};
pub use paging::{IdList, PageRequest};
pub use question::{Asker, Cost, Question, WalkQuestion};
pub use retry_if_removed::answer;
pub use room_digest::{GetRoomDigest, PartDigest};
pub use rooms::{GetRoom, ListRooms, RoomList, RoomSummary};
pub use shared_sizes::SharedSizes;
pub use stats::{Sizes, Stats, UnknownRoom, WideRoom, stats};
pub use tombstones::{
    ListDeletedRooms, ListErasedMembers, ListErasedUsers, ListRoomsNotServed, RoomsNotServedList,
};

//! Every fault that a store can have, and what can be done about each: one table.

use std::fmt;

use crate::store::{Orphan, OrphanReason, Part};

/// A fault in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The room's id; empty if the fault belongs to no room.
    pub room_id: String,
    /// The event's id; empty if the fault belongs to no event.
    pub event_id: String,
    /// The kind of the fault.
    pub kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { room_id, event_id, kind } = self;
        [room_id, event_id]
            .iter()
            .filter(|it| !it.is_empty())
            .try_for_each(|it| write!(f, "{it} "))?;
        write!(f, "{kind}")
    }
}

/// What is wrong. The texts are read behind the ids of the room and the event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum FaultKind {
    /// Another room, or none, is found under the room's id.
    #[error("the room's id does not refer to its record")]
    RoomIdWrong,
    /// The room has a version that this build does not know.
    #[error("the room has the unknown version {0}")]
    VersionUnknown(String),
    /// A record that is needed is missing or cannot be read.
    #[error("damaged {what} (key {key})")]
    Damaged {
        /// The kind of the record.
        what: &'static str,
        /// Its key, in hexadecimal.
        key: String,
    },
    /// The event's place in the graph and the verdict on it are lost.
    #[error("event {0} has a body but no node")]
    NodeMissing(u32),
    /// An event has two bodies, and it cannot be told which of them was received.
    #[error("event {0} has two bodies: one in its block and one of its own")]
    TwoBodies(u32),
    /// Bodies share a block when their page is full, but not before.
    #[error("the bodies from event {0} on share a block although their page is not full")]
    BlockTooEarly(u32),
    /// The body cannot be parsed.
    #[error("the body is not a valid event: {0}")]
    BodyInvalid(String),
    /// The event is stored as unreadable, but this build reads it.
    #[error(
        "is stored as an unreadable event, but this build can read it: delete its room with \
         --may-return and import it again"
    )]
    ReadableNow,
    /// The hash of the body is another event's id.
    #[error("the body belongs to event {0}")]
    BodyOfAnother(String),
    /// The body names another room.
    #[error("the body belongs to another room")]
    BodyOfAnotherRoom,
    /// A part of the body was changed that its id does not cover.
    #[error("the body matches neither its content hash nor its redacted form")]
    BodyUnhashed,
    /// The body of one event is stored in place of another's.
    #[error("is stored twice, as event {0} and as event {1}")]
    StoredTwice(u32, u32),
    /// The event is not found under its id, or another one is.
    #[error("the id does not refer to the event")]
    IdWrong,
    /// The node has another depth than the body.
    #[error("the depth differs from the depth in the body")]
    DepthWrong,
    /// The node has fewer edges than the body has predecessors.
    #[error("has fewer edges than the body has predecessors")]
    EdgesMissing,
    /// An edge refers to another event than the body names.
    #[error("the edge to {0} refers to another event")]
    EdgeWrong(String),
    /// A predecessor is marked as missing, but is in the graph.
    #[error("{0} is in the graph, but the edge to it is marked as missing")]
    EdgeCut(String),
    /// A predecessor is missing, and would get no edge when it is received.
    #[error("{0} is missing, but not noted as missing")]
    GapNotNoted(String),
    /// The event is not found by its order of arrival.
    #[error("is not in the list of arrivals")]
    ArrivalNotListed,
    /// The event is a redaction that would take no effect.
    #[error("redacts {0}, but is not listed as a redaction of it")]
    RedactionNotListed(String),
    /// Stored redactions hide the event, or may hide it, and its flags say something else.
    #[error("the redaction flags do not follow from the stored redactions")]
    RedactionWrong,
    /// The event is hidden, but by no stored redaction.
    #[error("is hidden as redacted, but no stored redaction hides it")]
    HiddenByNone,
    /// The event is redacted, and its content would stay on disk.
    #[error("event {0} is redacted, but its content is not noted for removal")]
    ContentNotNoted(u32),
    /// The event is redacted, and its content is on disk for longer than configured.
    #[error("the content of redacted event {0} should have been removed more than a day ago")]
    ContentOverdue(u32),
    /// The stored state is not the one that follows from predecessors or a given state.
    #[error("the state after the event does not follow from the graph")]
    StateWrong,
    /// The history visibility beside the state is not the one in the state.
    #[error("the history visibility stored beside the state after the event is wrong")]
    VisibilityWrong,
    /// Everything that determines the state is stored, but the state is not.
    #[error("the state after the event could be known, but is not stored")]
    StateMissing,
    /// A state is stored, but what determines it is not.
    #[error("the state after the event is stored, but cannot be derived from the graph")]
    StateUnfounded,
    /// A state contains the number of an event that was never added.
    #[error("state {0} refers to an event that does not exist")]
    StateOfNoEvent(u32),
    /// The current state has the event under a key that is not its own.
    #[error("is in the current state under the key of another event")]
    StateKeyWrong,
    /// The members of the current state are counted wrongly for some server.
    #[error("the member counts of the current state are wrong")]
    MemberCountsWrong,
    /// The current state is not the one over the forward extremities.
    #[error("the current state does not follow from the forward extremities")]
    CurrentStateWrong,
    /// The states that were known last count only while the current state is unknown.
    #[error("the states that were known last are stored, although the current state is known")]
    LastKnownUnneeded,
    /// The states that decide about access while the current state is unknown are damaged.
    #[error("the states that were known last cannot be read, so all access to the room is refused")]
    LastKnownLost,
    /// A counter in the room's record is wrong.
    #[error("has {counted} {what}, but its record counts {recorded}")]
    Count {
        /// The thing that is counted.
        what: Counted,
        /// The number that was counted.
        counted: u64,
        /// The number in the record.
        recorded: u64,
    },
    /// The list of forward extremities is wrong.
    #[error("the list of forward extremities does not follow from the graph")]
    ExtremitiesWrong,
    /// The next event would get the position of a stored one, or one before it.
    #[error("the next position in the order of arrival is taken already")]
    NextArrivalTaken,
    /// The flag that an accepted event follows is wrong.
    #[error("the flag for events that an accepted event follows is wrong")]
    FollowedWrong,
    /// The edges have a cycle.
    #[error("is its own predecessor, through a cycle of edges")]
    Cycle,
    /// A record that no other record refers to, or that cannot be read.
    #[error("{0}")]
    Orphan(Orphan),
}

/// The things that a room's record counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// Events that are stored without a place in the graph.
    Outliers,
    /// Placed events that were rejected.
    Rejected,
    /// Placed events that were soft-failed.
    SoftFailed,
    /// Events that break the format of their room version.
    Unreadable,
    /// Purged events of which only the ids are stored.
    Purged,
    /// Events whose order of arrival is not their number.
    ListedArrivals,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outliers => "outliers",
            Self::Rejected => "rejected events",
            Self::SoftFailed => "soft-failed events",
            Self::Unreadable => "unreadable events",
            Self::Purged => "purged events",
            Self::ListedArrivals => "listed arrivals",
        })
    }
}

/// What can be done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Derive ids, depths, edges and notes about them again from the bodies.
    FromBodies,
    /// Derive states and redactions again from the graph.
    FromGraph,
    /// Count again: counters, forward extremities, flags of followed events.
    Recount,
    /// Remove the record: it is not needed, or is written again with the records it belongs to.
    Remove,
    /// Remove the content of a redacted event, or note that it is to be removed.
    RemoveContent,
    /// Restore from a backup: the record cannot be derived. The whole room is left alone.
    Restore,
    /// Leave the event hidden: to show one whose redaction was lost would be worse.
    KeepHidden,
}

impl FaultKind {
    /// What can be done about the fault. A repair only uses records that do not depend on the
    /// faulty one.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::IdWrong
            | Self::DepthWrong
            | Self::EdgesMissing
            | Self::EdgeWrong(_)
            | Self::EdgeCut(_)
            | Self::GapNotNoted(_)
            | Self::ArrivalNotListed
            | Self::Cycle => Remedy::FromBodies,
            Self::RedactionNotListed(_)
            | Self::RedactionWrong
            | Self::StateWrong
            | Self::VisibilityWrong
            | Self::StateMissing
            // The cause is a wrong edge or state. A state that was given with the event stays.
            | Self::StateUnfounded
            | Self::StateOfNoEvent(_)
            | Self::StateKeyWrong
            | Self::MemberCountsWrong
            | Self::CurrentStateWrong
            // Without them, all access is refused until the current state is known.
            | Self::LastKnownUnneeded
            | Self::LastKnownLost => Remedy::FromGraph,
            Self::ContentNotNoted(_) | Self::ContentOverdue(_) => Remedy::RemoveContent,
            // A number without an event that was not purged belonged to an event.
            Self::Count { what: Counted::Purged, counted, recorded } if counted > recorded => {
                Remedy::Restore
            }
            Self::Count { .. }
            | Self::ExtremitiesWrong
            | Self::NextArrivalTaken
            | Self::FollowedWrong => Remedy::Recount,
            Self::HiddenByNone => Remedy::KeepHidden,
            Self::Damaged { what, .. } => match *what {
                "state" => Remedy::FromGraph,
                "event number" | "missing event" => Remedy::FromBodies,
                _ => Remedy::Restore,
            },
            Self::RoomIdWrong
            | Self::VersionUnknown(_)
            | Self::NodeMissing(_)
            | Self::TwoBodies(_)
            | Self::BlockTooEarly(_)
            | Self::StoredTwice(..)
            | Self::BodyInvalid(_)
            | Self::ReadableNow
            | Self::BodyOfAnother(_)
            | Self::BodyOfAnotherRoom
            | Self::BodyUnhashed => Remedy::Restore,
            Self::Orphan(orphan) => of_orphan(orphan.reason),
        }
    }
}

fn of_orphan(reason: OrphanReason) -> Remedy {
    match reason {
        OrphanReason::Damaged(Some(Part::Id)) | OrphanReason::EventNumberDamaged => {
            Remedy::FromBodies
        }
        OrphanReason::Damaged(Some(Part::State)) | OrphanReason::StateToCome => Remedy::FromGraph,
        OrphanReason::Damaged(Some(Part::Note))
        | OrphanReason::OfNoEvent(Part::Note | Part::GivenState | Part::Redaction)
        | OrphanReason::EventToCome
        | OrphanReason::NoteOfNoEvent
        | OrphanReason::NoArrival
        | OrphanReason::NoExtremity
        | OrphanReason::NothingMissing => Remedy::Remove,
        // The next number that is compared with may itself be wrong, and so may the room's.
        OrphanReason::PageToCome
        | OrphanReason::EventLost
        | OrphanReason::NoRoom
        | OrphanReason::NoKind
        | OrphanReason::RoomDamaged
        | OrphanReason::RoomNumberDamaged
        | OrphanReason::RoomNowhere
        | OrphanReason::OfNoEvent(Part::Body | Part::Id | Part::Page | Part::State)
        | OrphanReason::Damaged(
            Some(Part::Page | Part::Body | Part::GivenState | Part::Redaction) | None,
        ) => Remedy::Restore,
    }
}

impl Remedy {
    /// Describes a repair that helped.
    #[must_use]
    pub fn done(self) -> &'static str {
        match self {
            Self::FromBodies => "derived again from the bodies",
            Self::FromGraph => "derived again from the graph",
            Self::Recount => "counted again",
            Self::Remove => "removed",
            Self::RemoveContent => "removed, or noted for removal",
            Self::Restore | Self::KeepHidden => "gone after other repairs",
        }
    }
}

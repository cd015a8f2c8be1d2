//! Everything that can be wrong with a store, and what can be done about each: one table.

use std::fmt;

use crate::store::{Orphan, OrphanReason, Part};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The room; empty when no room can be named.
    pub room_id: String,
    /// The event, where one can be named.
    pub event_id: String,
    /// What is wrong.
    pub what: What,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { room_id, event_id, what } = self;
        [room_id, event_id]
            .iter()
            .filter(|it| !it.is_empty())
            .try_for_each(|it| write!(f, "{it} "))?;
        write!(f, "{what}")
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum What {
    /// Another room, or none, is found under the room's id.
    #[error("the room's id does not lead to its record")]
    RoomNowhere,
    /// No room can be of this version.
    #[error("has the unknown version {0}")]
    VersionUnknown(String),
    /// A record that is needed is not there, or cannot be read.
    #[error("damaged {what} (key {key})")]
    Damaged {
        /// What was to be read.
        what: &'static str,
        /// Its key, in hexadecimal.
        key: String,
    },
    /// What came is there, its place in the graph and the verdict on it are not.
    #[error("event {0} has a body but no node")]
    NoNode(u32),
    /// Which of them came cannot be told.
    #[error("event {0} has a body in its block and a record of its own")]
    TwoBodies(u32),
    /// Bodies share a block once their page is full, not before.
    #[error("the bodies from event {0} on are packed into a block too early")]
    PackedEarly(u32),
    /// The body cannot be parsed.
    #[error("the body is no event of its room: {0}")]
    BodyMalformed(String),
    /// This build reads what the one that it came to could not.
    #[error(
        "is held as an unreadable event, and this build can read it: delete its room with \
         --may-return and import it again"
    )]
    ReadableNow,
    /// The body's hash is another id.
    #[error("the body is that of {0}")]
    BodyOfAnother(String),
    /// The body names another room.
    #[error("the body is that of another room")]
    BodyOfAnotherRoom,
    /// What is not part of the id was changed.
    #[error("the body matches neither its content hash nor its redacted form")]
    BodyUnhashed,
    /// Another event's body has taken the place of its own.
    #[error("is held twice, as event {0} and as event {1}")]
    HeldTwice(u32, u32),
    /// The event is not found, or another is, under its id.
    #[error("the id does not lead to the event")]
    IdAstray,
    /// Not the body's depth.
    #[error("the depth is not that of the body")]
    DepthWrong,
    /// Not the body's number of edges.
    #[error("has another number of edges than the body")]
    EdgesMissing,
    /// An edge to another event than the body names.
    #[error("the edge to {0} leads elsewhere")]
    EdgeElsewhere(String),
    /// An edge that leads nowhere, to an event that is placed.
    #[error("{0} is held, but the edge says missing")]
    EdgeCut(String),
    /// The edge would not be drawn when the event comes.
    #[error("{0} is missing, but not noted as such")]
    GapNotNoted(String),
    /// The order of arrival leaves the event out.
    #[error("is not listed where it arrived")]
    NotListed,
    /// The event would hide nothing.
    #[error("that it redacts {0} is not noted")]
    RedactionNotNoted(String),
    /// A redaction is held that hides the event, or may hide it.
    #[error("whether it is redacted does not follow from the redactions held")]
    Redaction,
    /// It is hidden, and no redaction is held that hides it.
    #[error("whether it is redacted does not follow from the redactions held: none hides it")]
    Hidden,
    /// Not the state that follows from its predecessors, or that came with it.
    #[error("the state after it does not follow from the graph")]
    StateWrong,
    /// Not the history visibility in its state.
    #[error("the history visibility kept beside its state is wrong")]
    VisibilityWrong,
    /// All that it follows from is held.
    #[error("the state after it could be known, but is not held")]
    StateNotHeld,
    /// What it followed from is not held.
    #[error("has a state that does not follow from the graph")]
    StateUnfounded,
    /// A state of events whose numbers were never given.
    #[error("state {0} names an event that is none")]
    StateOfNoEvent(u32),
    /// The current state has it where another belongs.
    #[error("stands in the state under another's key")]
    StateKey,
    /// The members of the current state, by server.
    #[error("the members counted beside its current state do not add up")]
    MemberCounts,
    /// The current state is not that of the forward extremities.
    #[error("its current state does not follow from its forward extremities")]
    CurrentState,
    /// They decide only while it is not known.
    #[error("keeps states that were known last, though its current state is known")]
    LastKnown,
    /// While the current state is not known, they decide who may ask.
    #[error("the states that were known last cannot be read: nobody may ask about it")]
    LastKnownLost,
    /// More or fewer of something than the room's record says.
    #[error("has {counted} {what}, its record says {held}")]
    Count {
        /// Of what.
        what: Counted,
        /// How many there are.
        counted: u64,
        /// How many its record says.
        held: u64,
    },
    /// Forward extremities.
    #[error("its forward extremities do not follow from the graph")]
    Extremities,
    /// The next event would arrive with, or before, another.
    #[error("its next arrival is one that has been")]
    NextArrival,
    /// Whether an accepted event follows it.
    #[error("whether anything follows it is kept wrongly")]
    Followed,
    /// A cycle of edges.
    #[error("precedes itself")]
    Cycle,
    /// A record that nothing leads to, or that cannot be read.
    #[error("{0}")]
    Orphan(Orphan),
}

/// What a room's record counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// Outliers.
    Outliers,
    /// Rejected events.
    Rejected,
    /// Soft-failed events.
    SoftFailed,
    /// Unreadable events.
    Unreadable,
    /// Events purged without a trace but their ids.
    Purged,
    /// Events whose arrival is not their number.
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
    /// Drawn again from the bodies: ids, depths, edges, what is noted of them.
    Draw,
    /// Derived again from the graph: states and redactions.
    Derive,
    /// Counted again: counters, extremities, marks.
    Count,
    /// The record goes: nothing needs it, or it is written again with what it follows from.
    Remove,
    /// Nothing: what could tell is what is wrong. The room is left alone.
    Restore,
    /// Nothing: showing an event whose redaction was lost would be worse than hiding one.
    StayHidden,
}

impl What {
    /// What can be done about it. Whatever is not sure to follow from what is sound is lost.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::IdAstray
            | Self::DepthWrong
            | Self::EdgesMissing
            | Self::EdgeElsewhere(_)
            | Self::EdgeCut(_)
            | Self::GapNotNoted(_)
            | Self::NotListed
            | Self::Cycle => Remedy::Draw,
            Self::RedactionNotNoted(_)
            | Self::Redaction
            | Self::StateWrong
            | Self::VisibilityWrong
            | Self::StateNotHeld
            // By an edge or a state that was wrong. If it came with the event, it stays.
            | Self::StateUnfounded
            | Self::StateOfNoEvent(_)
            | Self::StateKey
            | Self::MemberCounts
            | Self::CurrentState
            // Without them nobody may ask until the current state is known.
            | Self::LastKnown
            | Self::LastKnownLost => Remedy::Derive,
            // An empty place among the events that nobody purged was an event.
            Self::Count { what: Counted::Purged, counted, held } if counted > held => {
                Remedy::Restore
            }
            Self::Count { .. } | Self::Extremities | Self::NextArrival | Self::Followed => {
                Remedy::Count
            }
            Self::Hidden => Remedy::StayHidden,
            Self::Damaged { what, .. } => match *what {
                "state" => Remedy::Derive,
                "event number" | "missing event" => Remedy::Draw,
                _ => Remedy::Restore,
            },
            Self::RoomNowhere
            | Self::VersionUnknown(_)
            | Self::NoNode(_)
            | Self::TwoBodies(_)
            | Self::PackedEarly(_)
            | Self::HeldTwice(..)
            | Self::BodyMalformed(_)
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
        OrphanReason::Damaged(Some(Part::Id)) | OrphanReason::EventNumberDamaged => Remedy::Draw,
        OrphanReason::Damaged(Some(Part::State)) | OrphanReason::StateToCome => Remedy::Derive,
        OrphanReason::Damaged(Some(Part::Note))
        | OrphanReason::OfNoEvent(Part::Note | Part::GivenState | Part::Redaction)
        | OrphanReason::EventToCome
        | OrphanReason::NoteOfNoEvent
        | OrphanReason::NoArrival
        | OrphanReason::NoExtremity
        | OrphanReason::NothingMissing => Remedy::Remove,
        // The number that tells it from what is to come may be what is wrong; so may a room's.
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
    /// What was done, when it helped.
    #[must_use]
    pub fn done(self) -> &'static str {
        match self {
            Self::Draw => "drawn again from the bodies",
            Self::Derive => "derived again from the graph",
            Self::Count => "counted again",
            Self::Remove => "removed",
            Self::Restore | Self::StayHidden => "gone with what else was repaired",
        }
    }
}

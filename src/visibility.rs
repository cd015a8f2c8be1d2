//! The form in which another server gets an event: in full, or redacted. An event that is hidden is
//! redacted, never left out: an answer with holes would make the server ask elsewhere for what it
//! may not see.
//!
//! Pure: [`decide`] takes a table of facts and returns the rule that decided, which implies the
//! form. An unknown fact hides the event.
//!
//! The specification defines history visibility for users
//! (<https://spec.matrix.org/v1.16/client-server-api/#room-history-visibility>). For a server we
//! read "some user of the server".

use std::fmt;

/// The history visibility of a room: who may read an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryVisibility {
    /// Anyone may read it.
    WorldReadable,
    /// Members may read it, even if they joined later.
    Shared,
    /// Members may read it if they were invited or joined at that point.
    Invited,
    /// Members may read it if they were joined at that point.
    Joined,
}

impl HistoryVisibility {
    /// Reads the value of `content.history_visibility`. A value that is missing, not a string or
    /// unknown means [`Shared`](Self::Shared), as the specification says.
    #[must_use]
    pub fn parse(value: Option<&str>) -> Self {
        match value {
            Some("world_readable") => Self::WorldReadable,
            Some("invited") => Self::Invited,
            Some("joined") => Self::Joined,
            Some(_) | None => Self::Shared,
        }
    }
}

impl fmt::Display for HistoryVisibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WorldReadable => "world_readable",
            Self::Shared => "shared",
            Self::Invited => "invited",
            Self::Joined => "joined",
        })
    }
}

/// The parts of a room state that decide what a server may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The room's history visibility.
    pub history_visibility: HistoryVisibility,
    /// Whether a user of the server is joined.
    pub joined: bool,
    /// Whether a user of the server is invited.
    pub invited: bool,
}

impl Standing {
    /// What a state says about a server without users in it.
    #[must_use]
    pub fn of_nobody(history_visibility: HistoryVisibility) -> Self {
        Self { history_visibility, joined: false, invited: false }
    }

    /// Whether the state lets the server read.
    #[must_use]
    pub fn allows(self) -> bool {
        match self.history_visibility {
            HistoryVisibility::WorldReadable | HistoryVisibility::Shared => true,
            HistoryVisibility::Invited => self.joined || self.invited,
            HistoryVisibility::Joined => self.joined,
        }
    }
}

/// The facts that decide the form of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventFacts {
    /// Whether a redaction of the event is held that is valid, or whose validity is not known yet.
    pub redacted: bool,
    /// The state after the event; `None` if it is not known.
    pub after: Option<Standing>,
    /// The state before the event. Given only for events that may be read when the state on either
    /// side allows it: history visibility events, and member events of the asking server's users.
    pub before: Option<Standing>,
    /// Whether the sender of the event requested erasure.
    pub sender_erased: bool,
}

/// The form in which an event is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The event as it was signed.
    Full,
    /// The event as the redaction algorithm leaves it.
    Redacted,
}

/// The rule that decided the form of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The event was redacted.
    Redacted,
    /// The state at the event is not known.
    StateUnknown,
    /// Neither side of the event lets the server read it.
    NotVisible,
    /// The sender requested erasure, and no user of the server was joined.
    SenderErased,
    /// The state after the event lets the server read it.
    VisibleAfter,
    /// The state before the event lets the server read it, and for this kind of event that is
    /// enough.
    VisibleBefore,
}

impl Rule {
    /// The form in which an event is served under this rule.
    #[must_use]
    pub fn form(self) -> Form {
        match self {
            Self::Redacted | Self::StateUnknown | Self::NotVisible | Self::SenderErased => {
                Form::Redacted
            }
            Self::VisibleAfter | Self::VisibleBefore => Form::Full,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redacted => "the event was redacted, so only its redacted form is served",
            Self::StateUnknown => "the state at the event is not known, so its content is hidden",
            Self::NotVisible => "the room's history visibility hides the event from this server",
            Self::SenderErased => {
                "the sender asked for erasure, and no user of this server was joined at the event"
            }
            Self::VisibleAfter => "the state after the event lets this server read it",
            Self::VisibleBefore => "the state before the event lets this server read it",
        })
    }
}

/// Decides the form of an event, by the first rule that applies.
#[must_use]
pub fn decide(facts: EventFacts) -> Rule {
    let EventFacts { redacted, after, before, sender_erased } = facts;
    if redacted {
        return Rule::Redacted;
    }
    let Some(after) = after else { return Rule::StateUnknown };
    let visible = if after.allows() {
        Rule::VisibleAfter
    } else if before.is_some_and(Standing::allows) {
        Rule::VisibleBefore
    } else {
        return Rule::NotVisible;
    };
    // A server whose users were joined has the event already. No other server gets it any more.
    if sender_erased && !after.joined {
        return Rule::SenderErased;
    }
    visible
}

#[cfg(test)]
mod tests {
    use super::{Form::*, HistoryVisibility::*, *};

    #[derive(Clone, Copy)]
    enum Member {
        Joined,
        Invited,
        Outside,
    }

    fn standing(history_visibility: HistoryVisibility, member: Member) -> Standing {
        Standing {
            history_visibility,
            joined: matches!(member, Member::Joined),
            invited: matches!(member, Member::Invited),
        }
    }

    fn ordinary(after: Option<Standing>) -> EventFacts {
        EventFacts { redacted: false, after, before: None, sender_erased: false }
    }

    /// history visibility at the event × the asking server's users at the event, for every
    /// event that changes neither.
    #[test]
    fn an_ordinary_event() {
        let table = [
            //               joined  invited   outside
            (WorldReadable, [Full, Full, Full]),
            (Shared, [Full, Full, Full]),
            (Invited, [Full, Full, Redacted]),
            (Joined, [Full, Redacted, Redacted]),
        ];
        for (visibility, row) in table {
            for (member, form) in [Member::Joined, Member::Invited, Member::Outside].iter().zip(row)
            {
                let facts = ordinary(Some(standing(visibility, *member)));
                assert_eq!(decide(facts).form(), form, "{visibility}");
            }
        }
    }

    /// An event that changes the history visibility, seen by a server that is outside: it may
    /// read it when the old or the new value allows it.
    #[test]
    fn a_change_of_history_visibility() {
        let table = [
            // before         after          form
            (Shared, Joined, Full),
            (Joined, Shared, Full),
            (Shared, WorldReadable, Full),
            (Joined, Invited, Redacted),
            (Invited, Joined, Redacted),
        ];
        for (before, after, form) in table {
            let outside = |visibility| Some(standing(visibility, Member::Outside));
            let facts = EventFacts { before: outside(before), ..ordinary(outside(after)) };
            assert_eq!(decide(facts).form(), form, "{before} to {after}");
        }
    }

    /// A member event of the asking server's own user: it may read it when what the user was
    /// before or is after allows it.
    #[test]
    fn a_change_of_its_own_membership() {
        use Member::{Invited as Invite, Joined as Join, Outside as Out};
        let table = [
            // visibility  before   after    form
            (Joined, Out, Join, Full),
            (Joined, Join, Out, Full),
            (Joined, Out, Invite, Redacted),
            (Joined, Invite, Out, Redacted),
            (Invited, Out, Invite, Full),
            (Invited, Invite, Out, Full),
            (Invited, Out, Out, Redacted),
            (Shared, Out, Out, Full),
        ];
        for (visibility, before, after, form) in table {
            let facts = EventFacts {
                before: Some(standing(visibility, before)),
                ..ordinary(Some(standing(visibility, after)))
            };
            assert_eq!(decide(facts).form(), form, "{visibility}");
        }
    }

    #[test]
    fn what_is_not_known_hides() {
        assert_eq!(decide(ordinary(None)), Rule::StateUnknown);
        let before = Some(standing(Shared, Member::Joined));
        let facts = EventFacts { before, ..ordinary(None) };
        assert_eq!(decide(facts), Rule::StateUnknown);
        // Of a change that the new state hides, the old state must be known to allow it.
        let facts = ordinary(Some(standing(Joined, Member::Outside)));
        assert_eq!(decide(facts), Rule::NotVisible);
    }

    #[test]
    fn a_redacted_event_is_redacted_for_everybody() {
        let facts = ordinary(Some(standing(WorldReadable, Member::Joined)));
        assert_eq!(decide(EventFacts { redacted: true, ..facts }), Rule::Redacted);
    }

    #[test]
    fn an_erased_senders_event_stays_whole_for_those_who_were_there() {
        let table = [
            (Member::Joined, Rule::VisibleAfter),
            (Member::Invited, Rule::SenderErased),
            (Member::Outside, Rule::SenderErased),
        ];
        for (member, expected) in table {
            let facts = ordinary(Some(standing(Shared, member)));
            assert_eq!(decide(EventFacts { sender_erased: true, ..facts }), expected);
        }
    }

    #[test]
    fn what_is_not_understood_is_shared() {
        for value in [None, Some(""), Some("shared"), Some("JOINED"), Some("friends")] {
            assert_eq!(HistoryVisibility::parse(value), Shared);
        }
    }
}

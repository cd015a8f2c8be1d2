//! In which form a server gets an event: whole, or redacted. Never: not at all; an answer with
//! holes would send the asker looking elsewhere for what it may not see.
//!
//! Pure: a table of facts in, a form and the rule that decided it out. A fact that is not known
//! hides the event.
//!
//! The specification defines history visibility for users
//! (<https://spec.matrix.org/v1.16/client-server-api/#room-history-visibility>). For a server we
//! read "some user of the server".

use std::fmt;

/// Who may read what was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryVisibility {
    /// Anyone.
    WorldReadable,
    /// Members, also what was said before they joined.
    Shared,
    /// Members, from their invitation on.
    Invited,
    /// Members, from their joining on.
    Joined,
}

impl HistoryVisibility {
    /// Reads the value of `content.history_visibility`. Missing, not a string or not understood
    /// is `Shared`, as the specification says.
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

/// What a state says to the asking server.
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

/// Everything that decides the form of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// A redaction of the event is held that is valid, or cannot be told to be invalid yet.
    pub redacted: bool,
    /// The state after the event; none if it is not known.
    pub after: Option<Standing>,
    /// The state before it, only for events that may be read when either side allows: those of
    /// history visibility, and member events of the asking server's users.
    pub before: Option<Standing>,
    /// Whether the event's sender asked for erasure.
    pub sender_erased: bool,
}

/// The form in which an event is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it was signed.
    Full,
    /// What the redaction algorithm leaves.
    Redacted,
}

/// Why an event has the form it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It was redacted.
    Redacted,
    /// The state at the event is not known.
    StateUnknown,
    /// Neither side of the event lets the server read.
    NotVisible,
    /// Its sender asked for erasure, and no user of the server was joined.
    SenderErased,
    /// The state after it lets the server read.
    VisibleAfter,
    /// The state before it does, and it is one of the events for which that is enough.
    VisibleBefore,
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

/// Decides. The rules are asked in the order of [`Rule`]'s variants; the first that hides, hides.
#[must_use]
pub fn decide(facts: Facts) -> (Form, Rule) {
    let Facts { redacted, after, before, sender_erased } = facts;
    if redacted {
        return (Form::Redacted, Rule::Redacted);
    }
    let Some(after) = after else { return (Form::Redacted, Rule::StateUnknown) };
    let rule = if after.allows() {
        Rule::VisibleAfter
    } else if before.is_some_and(Standing::allows) {
        Rule::VisibleBefore
    } else {
        return (Form::Redacted, Rule::NotVisible);
    };
    // Who was there has read it already; everybody else never gets it.
    if sender_erased && !after.joined {
        return (Form::Redacted, Rule::SenderErased);
    }
    (Form::Full, rule)
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

    fn ordinary(after: Option<Standing>) -> Facts {
        Facts { redacted: false, after, before: None, sender_erased: false }
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
                assert_eq!(decide(facts).0, form, "{visibility}");
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
            let facts = Facts { before: outside(before), ..ordinary(outside(after)) };
            assert_eq!(decide(facts).0, form, "{before} to {after}");
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
            let facts = Facts {
                before: Some(standing(visibility, before)),
                ..ordinary(Some(standing(visibility, after)))
            };
            assert_eq!(decide(facts).0, form, "{visibility}");
        }
    }

    #[test]
    fn what_is_not_known_hides() {
        assert_eq!(decide(ordinary(None)), (Redacted, Rule::StateUnknown));
        let before = Some(standing(Shared, Member::Joined));
        let facts = Facts { before, ..ordinary(None) };
        assert_eq!(decide(facts), (Redacted, Rule::StateUnknown));
        // Of a change that the new state hides, the old state must be known to allow it.
        let facts = ordinary(Some(standing(Joined, Member::Outside)));
        assert_eq!(decide(facts), (Redacted, Rule::NotVisible));
    }

    #[test]
    fn a_redacted_event_is_redacted_for_everybody() {
        let facts = ordinary(Some(standing(WorldReadable, Member::Joined)));
        assert_eq!(decide(Facts { redacted: true, ..facts }), (Redacted, Rule::Redacted));
    }

    #[test]
    fn an_erased_senders_event_stays_whole_for_those_who_were_there() {
        let table = [
            (Member::Joined, (Full, Rule::VisibleAfter)),
            (Member::Invited, (Redacted, Rule::SenderErased)),
            (Member::Outside, (Redacted, Rule::SenderErased)),
        ];
        for (member, expected) in table {
            let facts = ordinary(Some(standing(Shared, member)));
            assert_eq!(decide(Facts { sender_erased: true, ..facts }), expected);
        }
    }

    #[test]
    fn what_is_not_understood_is_shared() {
        for value in [None, Some(""), Some("shared"), Some("JOINED"), Some("friends")] {
            assert_eq!(HistoryVisibility::parse(value), Shared);
        }
    }
}

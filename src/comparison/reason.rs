//! The deliberate differences between the homeserver's answers and ours.

/// A deliberate difference between the homeserver's answers and ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DifferenceReason {
    /// The homeserver does not return redaction events that it could not validate. We serve them, so
    /// that the graph has no holes.
    RedactionsWithheld,
    /// The homeserver ignores `min_depth`.
    MinDepth,
    /// The homeserver returns an event of `latest_events` that precedes another one of them.
    LatestEvents,
    /// The homeserver counts rejected events towards the limit and does not walk through them. We
    /// walk through them without counting them.
    RejectedEvents,
    /// The homeserver returns outliers.
    Outliers,
    /// The homeserver returns events that break the format of their room version, or whose depth
    /// other servers cannot read. We never serve these.
    UnservableEvents,
    /// The homeserver returns events of other rooms that an event of this room references.
    OtherRooms,
    /// The limit was reached inside a layer of the walk: the homeserver takes the events of a layer in
    /// an arbitrary order, and counts ids that it does not hold.
    Limit,
    /// Our answer ended at its bound of bytes or of work.
    AnswerBound,
    /// The sender of an event asked for erasure. A server that had a joined user at the event gets
    /// it whole from us, and redacted from the homeserver.
    ErasedSender,
    /// For history visibility events and member events of the asking server's users, the state before
    /// the event may allow it, too. The homeserver looks at the state after the event alone.
    VisibleBefore,
}

use DifferenceReason as R;

/// The rules that can change which events an answer has.
const OF_WALKS: [DifferenceReason; 8] = [
    R::RedactionsWithheld,
    R::MinDepth,
    R::LatestEvents,
    R::RejectedEvents,
    R::Outliers,
    R::UnservableEvents,
    R::OtherRooms,
    R::Limit,
];
/// Those of them that change nothing in `/backfill`.
const OF_MISSING_EVENTS: [DifferenceReason; 4] =
    [R::MinDepth, R::LatestEvents, R::OtherRooms, R::Limit];

/// A set of reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons(u16);

impl Reasons {
    /// This set with one more reason.
    #[must_use]
    pub fn with(self, reason: DifferenceReason) -> Self {
        Self(self.0 | reason.bit())
    }

    /// The union of two sets.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the set contains a reason.
    #[must_use]
    pub fn contains(self, reason: DifferenceReason) -> bool {
        self.0 & reason.bit() != 0
    }

    /// Whether the set contains no reason.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The reasons of the set, in the order of their definition.
    pub fn iter(self) -> impl Iterator<Item = DifferenceReason> {
        let all = OF_WALKS.into_iter().chain([R::AnswerBound, R::ErasedSender, R::VisibleBefore]);
        all.filter(move |it| self.contains(*it))
    }

    /// All sets of rules that can change which events an answer has, small ones first. Of equally
    /// small ones, those first that leave the least to chance.
    pub(super) fn of_walks(missing_events: bool) -> Vec<Self> {
        let usable = |it: &R| missing_events || !OF_MISSING_EVENTS.contains(it);
        let mut sets = vec![Self::default()];
        for rule in OF_WALKS.into_iter().filter(usable) {
            let with: Vec<Self> = sets.iter().map(|it| it.with(rule)).collect();
            sets.extend(with);
        }
        sets.sort_by_key(|it| (it.0.count_ones(), it.0));
        sets
    }
}

impl DifferenceReason {
    fn bit(self) -> u16 {
        let place = match self {
            Self::RedactionsWithheld => 0,
            Self::MinDepth => 1,
            Self::LatestEvents => 2,
            Self::RejectedEvents => 3,
            Self::Outliers => 4,
            Self::UnservableEvents => 5,
            Self::OtherRooms => 6,
            Self::Limit => 7,
            Self::AnswerBound => 8,
            Self::ErasedSender => 9,
            Self::VisibleBefore => 10,
        };
        1 << place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_tried_from_small_to_large_and_each_once() {
        let all = Reasons::of_walks(true);
        assert_eq!(all.len(), 256);
        assert!(all.windows(2).all(|it| it[0].0.count_ones() <= it[1].0.count_ones()));
        assert!(all[0].is_empty());
        let of_backfill = Reasons::of_walks(false);
        assert_eq!(of_backfill.len(), 16);
        assert!(of_backfill.iter().all(|it| !it.contains(R::Limit)));
    }

    #[test]
    fn a_set_lists_what_was_put_in() {
        let set = Reasons::default().with(R::VisibleBefore).with(R::MinDepth).with(R::MinDepth);
        assert_eq!(set.iter().collect::<Vec<_>>(), [R::MinDepth, R::VisibleBefore]);
    }
}

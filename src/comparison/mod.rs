//! Explains why an answer of the homeserver has other events than ours: by the rules in which the two
//! differ deliberately, and by nothing else.
//!
//! An explanation is never "could be". Both walks are modelled here, apart from the walks in `graph`
//! that make our answers. The model of our rules must give exactly our answer, and the model in which
//! some rules are the homeserver's must give exactly its answer. The explanation is the smallest set
//! of rules with which it does. If there is none, the difference is a fault, or not understood.
//!
//! The homeserver's rules are those of Synapse. Where its order is arbitrary, inside a layer of
//! `/get_missing_events` at which the limit is reached, the model checks what must hold for any order.
//!
//! Pure: the facts about events are looked up by a function that is passed in.

mod known;
mod layers;
mod models;
mod reason;

pub use self::{
    known::{KnownEvent, KnownEvents},
    reason::{DifferenceReason, Reasons},
};

/// A question of another server, as far as its walk depends on it. Limits are those that count.
#[derive(Clone, Copy, Debug)]
pub enum AskedWalk<'a> {
    /// `/backfill`.
    Back {
        /// The events to start from.
        from: &'a [String],
        /// The most events of an answer.
        limit: usize,
    },
    /// `/get_missing_events`.
    Missing {
        /// The events that the asking server has.
        earliest: &'a [String],
        /// The events to start from.
        latest: &'a [String],
        /// The most events of an answer.
        limit: usize,
        /// Events of a lower depth are not served.
        min_depth: i64,
    },
}

/// The event ids of two answers to the same question, each in the order of its answer.
#[derive(Clone, Copy, Debug)]
pub struct BothAnswers<'a> {
    /// The ids of our answer.
    pub ours: &'a [String],
    /// Whether our answer ended early, at its bound of bytes or of work.
    pub ours_ended_early: bool,
    /// The ids of the homeserver's answer.
    pub theirs: &'a [String],
}

/// The rules that explain why two answers have different events; `None` if they do not explain it. The
/// events of `/backfill` are compared as a list, those of `/get_missing_events` as a set.
///
/// # Errors
/// The first failure to look up an event.
pub fn explain<E>(
    asked: AskedWalk<'_>,
    answers: BothAnswers<'_>,
    events: &KnownEvents<'_, E>,
) -> Result<Option<Reasons>, E> {
    let BothAnswers { ours, ours_ended_early, theirs } = answers;
    let ours_is_right = if ours_ended_early {
        models::has_all(asked, ours, events)?
    } else {
        models::gives(asked, Reasons::default(), ours, events)?
    };
    if !ours_is_right || events.is_exhausted() {
        return Ok(None);
    }
    for rules in Reasons::of_walks(matches!(asked, AskedWalk::Missing { .. })) {
        // Without another rule, only the early end of our answer explains a difference.
        if (rules.is_empty() && !ours_ended_early)
            || !models::gives(asked, rules, theirs, events)?
            || events.is_exhausted()
        {
            continue;
        }
        let ended = ours_ended_early.then_some(DifferenceReason::AnswerBound);
        return Ok(Some(ended.into_iter().fold(rules, Reasons::with)));
    }
    Ok(None)
}

#[cfg(test)]
mod tests;

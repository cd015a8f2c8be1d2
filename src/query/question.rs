//! The interface of all questions.

use super::{QueryError, ServedPage};
use crate::{context::Context, deadline::Deadline, slow_walks::WalkKind};

/// The caller on whose behalf a question is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// An internal caller: a service of our own homeserver. It may see everything.
    Internal,
    /// A server other than our own.
    Server {
        /// The authenticated name of that server.
        origin: String,
        /// Our own name, as the server addressed us.
        destination: String,
    },
}

impl Asker {
    /// The name of the asking server; `None` for an internal caller.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        match self {
            Self::Internal => None,
            Self::Server { origin, .. } => Some(origin),
        }
    }
}

/// The amount of work that a question may cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Usually answered from memory within a fraction of a millisecond.
    Small,
    /// May take longer than that.
    Large,
}

/// The most events that a question of small cost names.
const FEW_EVENTS: usize = 200;

/// The cost of a question that names this many events: each of them is looked up.
pub(super) fn cost_of(named_events: usize) -> Cost {
    if named_events <= FEW_EVENTS { Cost::Small } else { Cost::Large }
}

/// A question about the store. Ask it with [`answer`](super::answer).
pub trait Question {
    /// The answer if the question succeeds.
    type Answer;

    /// The room that the question is about; `None` if it is not about a single room.
    fn room_id(&self) -> Option<&str>;

    /// How much work the answer may take.
    fn cost(&self) -> Cost {
        Cost::Large
    }

    /// Answers the question once. The answer is not reliable if the room was deleted or purged
    /// meanwhile.
    ///
    /// # Errors
    /// The reason why there is no answer.
    fn try_answer(&self, cx: &Context, deadline: &Deadline) -> Result<Self::Answer, QueryError>;
}

/// A question that another server may ask, answered by a walk through the room's graph.
pub trait WalkQuestion: Question<Answer = ServedPage> {
    /// The kind of the question, which names it in logs and metrics.
    const KIND: WalkKind;

    /// The caller on whose behalf the question is asked.
    fn asker(&self) -> &Asker;
}

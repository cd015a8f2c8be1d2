//! Answering a question about a room while others remove the room, or a part of it.

use super::{QueryError, Question};
use crate::{
    context::Context,
    deadline::Deadline,
    store::{Removed, StoreError},
};

/// How often a question is tried at most. A purge removes records in small commits, each of which
/// takes as long as many answers.
const MAX_TRIES: u32 = 5;

/// Answers a question. It is tried again if its room was deleted meanwhile, or if a purge removed
/// from the room what was to be read. A record that is missing although nothing was removed is
/// damage.
///
/// # Errors
/// The error of the question, or [`QueryError::RoomChanges`] if every try failed.
pub fn answer<Q: Question>(
    cx: &Context,
    question: &Q,
    deadline: &Deadline,
) -> Result<Q::Answer, QueryError> {
    match question.room_id() {
        Some(room_id) => retry_if_removed(cx, room_id, question, deadline),
        None => {
            cx.store.learn_sets()?;
            question.try_answer(cx, deadline)
        }
    }
}

fn retry_if_removed<Q: Question>(
    cx: &Context,
    room_id: &str,
    question: &Q,
    deadline: &Deadline,
) -> Result<Q::Answer, QueryError> {
    let mut stamp = None;
    for _ in 0..MAX_TRIES {
        let moment = cx.store.moment(room_id);
        let answer = question.try_answer(cx, deadline);
        let is_missing = matches!(&answer, Err(QueryError::Store(StoreError::Missing { .. })));
        match (cx.store.removed_since(room_id, moment), answer) {
            (_, Err(QueryError::Deadline(passed))) => return Err(passed.into()),
            // Some of what was read may be of the deleted room, and some of the one created since.
            (Removed::Room, _) => {}
            (Removed::Records, _) if is_missing => {}
            // Another process may have removed it, or put it elsewhere.
            (Removed::Nothing, _)
                if is_missing && cx.store.may_have_changed(room_id, &mut stamp)? => {}
            (Removed::Nothing, Err(QueryError::Store(failure))) => {
                return Err(failure.at_rest().into());
            }
            (Removed::Records | Removed::Nothing, answer) => return answer,
        }
    }
    Err(QueryError::RoomChanges(room_id.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::store::{Options, Store, View as _};

    const ROOM: &str = "!a:one.example";

    fn context() -> (Context, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let cx = Context::new(Store::open(&Options::small(dir.path())).unwrap());
        make(&cx);
        (cx, dir)
    }

    fn make(cx: &Context) {
        cx.store.edit(ROOM, Some("10")).unwrap().unwrap().commit().unwrap();
    }

    fn missing() -> QueryError {
        StoreError::missing("body", b"key").into()
    }

    /// Removes something from the room, as a purge does.
    fn purge(cx: &Context) {
        let mut edit = cx.store.edit(ROOM, None).unwrap().unwrap();
        let state = edit.next_state();
        edit.remove_state(state);
        edit.commit().unwrap();
    }

    /// A question about the room that is given the number of its try, from 1.
    struct Counted<F> {
        tries: Cell<u32>,
        question: F,
    }

    impl<F: Fn(u32) -> Result<u32, QueryError>> Question for Counted<F> {
        type Answer = u32;

        fn room_id(&self) -> Option<&str> {
            Some(ROOM)
        }

        fn try_answer(&self, _: &Context, _: &Deadline) -> Result<u32, QueryError> {
            self.tries.set(self.tries.get() + 1);
            (self.question)(self.tries.get())
        }
    }

    /// The answer to a question, and the number of its tries.
    fn asked(
        cx: &Context,
        question: impl Fn(u32) -> Result<u32, QueryError>,
    ) -> (Result<u32, QueryError>, u32) {
        let question = Counted { tries: Cell::new(0), question };
        let answer = answer(cx, &question, &Deadline::none());
        (answer, question.tries.get())
    }

    #[test]
    fn what_another_process_moves_or_removes_is_asked_for_again_and_what_is_lost_is_damage() {
        let mut stores = Store::sharing(2).into_iter().map(Context::new);
        let (cx, other) = (stores.next().unwrap(), stores.next().unwrap());
        make(&cx);
        let (answer, tries) = asked(&cx, |nth| {
            if nth < 3 {
                // The number of the room stays the same.
                other.store.edit(ROOM, None)?.unwrap().commit()?;
                return Err(missing());
            }
            Ok(nth)
        });
        assert!(matches!(answer, Ok(3)), "{answer:?}");
        assert_eq!(tries, 3);
        let (answer, tries) = asked(&cx, |_| Err(missing()));
        assert!(matches!(answer, Err(QueryError::Store(StoreError::Corrupt { .. }))), "{answer:?}");
        assert_eq!(tries, 2);
    }

    #[test]
    fn what_is_not_there_though_nothing_was_removed_is_damage() {
        let (cx, _dir) = context();
        let (answer, tries) = asked(&cx, |_| Err(missing()));
        assert!(matches!(answer, Err(QueryError::Store(StoreError::Corrupt { .. }))), "{answer:?}");
        assert_eq!(tries, 1 + u32::from(cx.store.is_shared()));
    }

    #[test]
    fn what_a_purge_removed_meanwhile_is_asked_for_again() {
        let (cx, _dir) = context();
        let (answer, tries) = asked(&cx, |nth| {
            purge(&cx);
            if nth < 3 { Err(missing()) } else { Ok(nth) }
        });
        assert!(matches!(answer, Ok(3)), "{answer:?}");
        assert_eq!(tries, 3);
    }

    #[test]
    fn a_room_that_changes_without_end_is_given_up() {
        let (cx, _dir) = context();
        let (answer, tries) = asked(&cx, |_| {
            purge(&cx);
            Err(missing())
        });
        assert!(matches!(answer, Err(QueryError::RoomChanges(_))), "{answer:?}");
        assert_eq!(tries, MAX_TRIES);
    }

    #[test]
    fn a_room_that_is_deleted_meanwhile_is_unknown_whatever_was_read_of_it() {
        for first in [|| Ok(1), || Err(missing())] {
            let (cx, _dir) = context();
            let (answer, tries) = asked(&cx, |_| {
                if cx.store.room_num(ROOM)?.is_none() {
                    return Err(QueryError::RoomUnknown(ROOM.to_owned()));
                }
                cx.store.delete_room(ROOM)?;
                first()
            });
            assert!(matches!(answer, Err(QueryError::RoomUnknown(_))), "{answer:?}");
            assert_eq!(tries, 2);
        }
    }

    #[test]
    fn an_answer_from_before_a_deletion_is_not_given_for_the_room_that_came_after() {
        let (cx, _dir) = context();
        let (answer, tries) = asked(&cx, |nth| {
            if nth == 1 {
                cx.store.delete_room(ROOM)?;
                cx.store.forget_deleted_room(ROOM)?;
                make(&cx);
            }
            Ok(nth)
        });
        assert!(matches!(answer, Ok(2)), "{answer:?}");
        assert_eq!(tries, 2);
    }

    #[test]
    fn another_room_that_changes_makes_nothing_be_asked_again() {
        let (cx, _dir) = context();
        let (answer, tries) = asked(&cx, |nth| {
            let other = format!("!other{nth}:one.example");
            cx.store.edit(&other, Some("10"))?.unwrap().commit()?;
            cx.store.delete_room(&other)?;
            Err(missing())
        });
        assert!(matches!(answer, Err(QueryError::Store(StoreError::Corrupt { .. }))), "{answer:?}");
        assert_eq!(tries, 1 + u32::from(cx.store.is_shared()));
    }
}

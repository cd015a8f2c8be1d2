//! Events that come together: what needs no room is checked on all cores, and events of one room
//! that follow each other share one batch. What becomes of each is what would have become of it
//! alone, in the same order.

use std::{
    panic::resume_unwind,
    slice,
    sync::LazyLock,
    thread::{self, available_parallelism},
    time::Instant,
};

use super::{
    NewEvent, Outcome,
    backlog::{self, Left},
    check::{self, Checked, Refused},
    place::{self, Placed},
    settle,
};
use crate::{
    context::Context,
    pdu::Event,
    store::{Edit, Store, StoreError, View},
};

/// Most events that share a batch: bounds what a writer holds in memory, and how long it keeps
/// other writers from the room.
const IN_A_BATCH: usize = 64;
/// What waited for the events of a batch is settled in so many turns before they are acknowledged;
/// what is left then is [worked off](super::work_off) after that.
const TURNS_BEFORE_THE_ANSWER: usize = 4;
/// Fewer are not worth waking another core for.
const WORTH_A_CORE: usize = 8;

static CORES: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));

/// The result of appending several events.
#[derive(Debug)]
pub struct BatchOutcome {
    /// The outcomes of the first events, in the order given. All of them are on disk.
    pub outcomes: Vec<Outcome>,
    /// Why the other events were not appended; `None` if there are no others.
    pub failure: Option<StoreError>,
}

/// Appends an event without a flush, for bulk loads that flush now and then: the outcome is on disk
/// only after [`Store::flush`].
///
/// # Errors
/// When the store fails. A refusal is an outcome, not an error.
pub fn append_unflushed(cx: &Context, event: &NewEvent<'_>) -> Result<Outcome, StoreError> {
    let BatchOutcome { mut outcomes, failure } = write_all(cx, slice::from_ref(event));
    if let Some(failure) = failure {
        return Err(failure);
    }
    Ok(outcomes.pop().expect("there is an outcome for each event unless the store failed"))
}

/// Appends events in the order given, with one flush for all of them; flushes that run at the same
/// time are shared between callers.
pub fn append_all(cx: &Context, events: &[NewEvent<'_>]) -> BatchOutcome {
    let mut result = write_all(cx, events);
    let written = Instant::now();
    let flushed = cx.store.flush();
    cx.metrics.flushed(written.elapsed());
    if let Err(failure) = flushed {
        result = BatchOutcome { outcomes: Vec::new(), failure: Some(failure) };
    }
    result
}

fn write_all(cx: &Context, events: &[NewEvent<'_>]) -> BatchOutcome {
    let mut batch = Batch::new(cx);
    let mut failure = None;
    for (event, early) in events.iter().zip(check_all(cx, events)) {
        let space = cx.store.check_space();
        if let Err(error) = space.and(early).and_then(|early| batch.append(event, early)) {
            failure = Some(error);
            break;
        }
    }
    if let Err(error) = batch.commit() {
        failure.get_or_insert(error);
    }
    batch.outcomes.truncate(batch.committed);
    // Of a room that is held still, nothing is removed meanwhile.
    BatchOutcome { outcomes: batch.outcomes, failure: failure.map(StoreError::at_rest) }
}

/// What was found out about an event before its turn, and the room version it was checked for.
struct Early {
    known_version: Option<String>,
    checked: Result<Checked, Refused>,
}

impl Early {
    fn check(cx: &Context, event: &NewEvent<'_>) -> Result<Self, StoreError> {
        let known_version = known_version(&cx.store, event.room_id)?;
        let checked = check::check(event, known_version.as_deref());
        Ok(Self { known_version, checked })
    }

    /// Whether a check now could not come out otherwise.
    fn holds(&self, known_version: Option<&str>) -> bool {
        self.known_version.as_deref() == known_version
            || matches!(&self.checked, Ok(it) if Some(it.version.as_str()) == known_version)
    }
}

fn check_all(cx: &Context, events: &[NewEvent<'_>]) -> Vec<Result<Early, StoreError>> {
    let cores = (events.len() / WORTH_A_CORE).clamp(1, *CORES);
    let check = |part: &[NewEvent<'_>]| part.iter().map(|it| Early::check(cx, it)).collect();
    let mut parts = events.chunks(events.len().div_ceil(cores).max(1));
    let own = parts.next().unwrap_or_default();
    thread::scope(|scope| {
        let others: Vec<_> = parts.map(|part| scope.spawn(move || check(part))).collect();
        let mut all: Vec<_> = check(own);
        for other in others {
            all.append(&mut other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        all
    })
}

/// A batch being filled.
struct Batch<'c> {
    cx: &'c Context,
    /// Holds the lock of its room. Only there while it holds an event.
    edit: Option<Edit<'c>>,
    placed: usize,
    outcomes: Vec<Outcome>,
    /// How many of the outcomes are of events that are applied, or not to be.
    committed: usize,
}

impl<'c> Batch<'c> {
    fn new(cx: &'c Context) -> Self {
        Self { cx, edit: None, placed: 0, outcomes: Vec::new(), committed: 0 }
    }

    fn append(&mut self, event: &NewEvent<'_>, early: Early) -> Result<(), StoreError> {
        let other = |it: &Edit<'_>| it.room.room_id != event.room_id;
        if self.placed >= IN_A_BATCH || self.edit.as_ref().is_some_and(other) {
            self.commit()?;
        }
        match self.outcome(event, early) {
            Ok(outcome) => self.outcomes.push(outcome),
            Err(failure) => {
                self.lose();
                return Err(failure);
            }
        }
        // What waits is settled before the next event comes, as if that had come alone.
        if self.edit.as_ref().is_none_or(Edit::has_unsettled) { self.commit() } else { Ok(()) }
    }

    fn outcome(&mut self, event: &NewEvent<'_>, early: Early) -> Result<Outcome, StoreError> {
        let purged = |event_id: &str| Ok(Outcome::Purged { event_id: event_id.to_owned() });
        let store = &self.cx.store;
        let known = match &self.edit {
            Some(edit) => Some(edit.room.room_version.clone()),
            None if store.is_deleted(event.room_id)? => return purged(event.event_id),
            None => known_version(store, event.room_id)?,
        };
        let checked = if early.holds(known.as_deref()) {
            early.checked
        } else {
            check::check(event, known.as_deref())
        };
        let checked = match checked {
            Ok(checked) => checked,
            Err((event_id, refusal)) => return Ok(Outcome::Refused { event_id, refusal }),
        };
        let event_id = checked.event.event_id().as_str().to_owned();
        let edit = match self.edit.take() {
            Some(edit) => Some(edit),
            None => store.edit(event.room_id, Some(checked.version.as_str()))?,
        };
        // Deleted a moment ago, if there is none.
        let Some(mut edit) = edit else { return purged(&event_id) };
        let placed = place::place(&mut edit, &checked, event)?;
        match &placed {
            Ok(Placed::Now { event, followed }) => {
                settle::settle_read(&mut edit, *event, &checked.event)?;
                settle::keep_deciding(&mut edit, *event, followed)?;
            }
            Ok(Placed::StateGiven(event)) => {
                settle::settle_read(&mut edit, *event, &checked.event)?;
            }
            Ok(Placed::Before(_) | Placed::Never) | Err(_) => {}
        }
        if matches!(placed, Ok(Placed::Now { .. } | Placed::StateGiven(_))) {
            settle::refresh_current_state(&mut edit)?;
            self.placed += 1;
        }
        let outcome = match placed {
            Ok(Placed::Never) => Outcome::Purged { event_id },
            Ok(placed) => appended(&edit, &checked, &placed)?,
            Err(refusal) => Outcome::Refused { event_id: Some(event_id), refusal },
        };
        // A room is not made by an event that was not taken.
        self.edit = Some(edit).filter(|_| self.placed > 0);
        Ok(outcome)
    }

    /// What was placed comes to nothing.
    fn lose(&mut self) {
        self.edit = None;
        self.placed = 0;
        self.outcomes.truncate(self.committed);
    }

    /// Applies what was placed, and settles what waited for it.
    fn commit(&mut self) -> Result<(), StoreError> {
        self.placed = 0;
        if let Some(edit) = self.edit.take() {
            let room_id = edit.room.room_id.clone();
            let has_unsettled = edit.has_unsettled();
            if let Err(failure) = edit.commit() {
                self.lose();
                return Err(failure);
            }
            self.committed = self.outcomes.len();
            if has_unsettled
                && backlog::turns(&self.cx.store, &room_id, TURNS_BEFORE_THE_ANSWER)? == Left::Some
            {
                self.cx.backlog.add(&room_id);
            }
        }
        self.committed = self.outcomes.len();
        Ok(())
    }
}

/// What is said of an event that is held.
fn appended(edit: &Edit<'_>, checked: &Checked, placed: &Placed) -> Result<Outcome, StoreError> {
    let (duplicate, state_given) = match placed {
        Placed::Before(_) => (true, false),
        Placed::StateGiven(_) => (false, true),
        Placed::Never | Placed::Now { .. } => (false, false),
    };
    let state_unknown = match placed {
        Placed::Never => false,
        Placed::Before(event) | Placed::StateGiven(event) | Placed::Now { event, .. } => {
            let node = edit.node(*event)?;
            !node.flags.outlier && node.state_after.is_none()
        }
    };
    Ok(Outcome::Appended {
        event_id: checked.event.event_id().as_str().to_owned(),
        duplicate,
        redacted: checked.redacted,
        unreadable: match &checked.event {
            Event::Readable(_) => None,
            Event::Unreadable(it) => Some(it.why().clone()),
        },
        state_given,
        state_unknown,
    })
}

fn known_version(store: &Store, room_id: &str) -> Result<Option<String>, StoreError> {
    let Some(number) = store.room_num(room_id)? else { return Ok(None) };
    // Deleted since, if there is none; the edit that follows says for good.
    Ok(store.find_room(number)?.map(|it| it.room_version))
}

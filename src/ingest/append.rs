//! Appending events: the use case behind `AppendEvents`. [`append_one`] shows the six steps of the
//! [module](super) in order; the functions above it share work between events.
//!
//! Events that are appended together get the outcomes that they would get one by one, in the same
//! order.

use std::{
    panic::resume_unwind,
    slice,
    sync::LazyLock,
    thread::{self, available_parallelism},
    time::Instant,
};

use super::{
    NewEvent, Outcome,
    backlog::{self, NotesLeft},
    check::{Checked, CheckedBeforeLock, Known},
    existing::{Existing, HeldEvent, existing},
    expect,
    given_state::{self, GivenState},
    place,
    refusal::NotTaken,
    remains, replace, settle,
};
use crate::{
    context::Context,
    pdu::Event,
    store::{Decision, Deriving as _, Edit, EventNum, StoreError, View},
};

/// The most events in one decision: bounds the memory of a decision, and the time for which other
/// writers of the room wait.
const MAX_EVENTS_PER_DECISION: usize = 64;
/// A decision ends after the event with which its PDUs reach this size. The engine writes a decision
/// in one piece, and must not have much to write at a time.
const MAX_BYTES_PER_DECISION: usize = 256 << 10;
/// Turns of the backlog that a caller waits for. [`work_off`](super::work_off) does the rest later.
const TURNS_BEFORE_ACKNOWLEDGEMENT: usize = 4;
/// Events for which it pays to start one more thread.
const EVENTS_PER_THREAD: usize = 8;

static CORES: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));

/// The result of appending several events.
#[derive(Debug)]
pub struct BatchOutcome {
    /// The outcomes of the first events, in the order given.
    pub outcomes: Vec<Outcome>,
    /// Why the events after those were not appended; `None` if there are none.
    pub failure: Option<StoreError>,
}

/// Appends events in the order given. All outcomes are on disk when this returns. The events share
/// one flush, and callers that flush at the same time share it too.
pub fn append_all(cx: &Context, events: &[NewEvent<'_>]) -> BatchOutcome {
    let written = write_all(cx, events);
    let start = Instant::now();
    let flushed = cx.store.flush();
    cx.metrics.flushed(start.elapsed());
    match flushed {
        Ok(()) => written,
        Err(failure) => BatchOutcome { outcomes: Vec::new(), failure: Some(failure) },
    }
}

/// Appends an event without a flush, for bulk loads that flush at intervals. The outcome is on disk
/// only after [`Store::flush`](crate::store::Store::flush).
///
/// # Errors
/// When the store fails. A refusal is an outcome, not an error.
pub fn append_unflushed(cx: &Context, event: &NewEvent<'_>) -> Result<Outcome, StoreError> {
    let BatchOutcome { mut outcomes, failure } = write_all(cx, slice::from_ref(event));
    if let Some(failure) = failure {
        return Err(failure);
    }
    Ok(outcomes.pop().expect("each event has an outcome unless the store failed"))
}

fn write_all(cx: &Context, events: &[NewEvent<'_>]) -> BatchOutcome {
    let mut outcomes = Vec::with_capacity(events.len());
    let failure = write_decisions(cx, events, &mut outcomes).err();
    // A decision reads under the lock of its room, so a missing record is damage.
    BatchOutcome { outcomes, failure: failure.map(StoreError::at_rest) }
}

/// Appends events, one decision after another, and adds their outcomes to `outcomes`.
fn write_decisions(
    cx: &Context,
    events: &[NewEvent<'_>],
    outcomes: &mut Vec<Outcome>,
) -> Result<(), StoreError> {
    let RoomsFound { rooms, failure } = look_up_rooms(cx, events);
    let checked = check_all(events, &rooms);
    for of_one_room in checked.chunk_by(|one, next| one.event.room_id == next.event.room_id) {
        let mut rest = of_one_room;
        while !rest.is_empty() {
            let before = outcomes.len();
            write_decision(cx, rest, outcomes)?;
            rest = rest.split_at(outcomes.len() - before).1;
        }
    }
    failure.map_or(Ok(()), Err)
}

/// The rooms of some events.
struct RoomsFound {
    /// What is known of the room of each event.
    rooms: Vec<Known>,
    /// Why the rooms of the events after those could not be looked up; `None` if there are none.
    failure: Option<StoreError>,
}

/// Looks up the rooms of some events: once for events in a row that share one.
fn look_up_rooms(cx: &Context, events: &[NewEvent<'_>]) -> RoomsFound {
    let mut rooms = Vec::with_capacity(events.len());
    for of_one_room in events.chunk_by(|one, next| one.room_id == next.room_id) {
        let Some(first) = of_one_room.first() else { continue };
        match Known::look_up(&cx.store, first.room_id) {
            Ok(known) => rooms.extend(of_one_room.iter().map(|_| known.clone())),
            Err(failure) => return RoomsFound { rooms, failure: Some(failure) },
        }
    }
    RoomsFound { rooms, failure: None }
}

/// Takes steps 1 to 3 for the events whose rooms are known, on several cores if there are many.
fn check_all<'e>(events: &'e [NewEvent<'e>], rooms: &[Known]) -> Vec<CheckedBeforeLock<'e>> {
    let check = |events: &'e [NewEvent<'e>], rooms: &[Known]| -> Vec<_> {
        events
            .iter()
            .zip(rooms)
            .map(|(it, room)| CheckedBeforeLock::new(it, room.clone()))
            .collect()
    };
    let threads = (events.len() / EVENTS_PER_THREAD).clamp(1, *CORES);
    if threads == 1 {
        return check(events, rooms);
    }
    let size = events.len().div_ceil(threads);
    let mut parts = events.chunks(size).zip(rooms.chunks(size));
    let own = parts.next();
    thread::scope(|scope| {
        let start = |(events, rooms)| scope.spawn(move || check(events, rooms));
        let others: Vec<_> = parts.map(start).collect();
        let mut all = own.map(|(events, rooms)| check(events, rooms)).unwrap_or_default();
        for other in others {
            all.append(&mut other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        all
    })
}

/// The outcomes of the events that share a decision.
struct Decided {
    outcomes: Vec<Outcome>,
    /// Whether the decision leaves notes of unsettled events.
    has_unsettled: bool,
}

/// Appends the first of some events of one room, and with it as many behind it as can share its
/// decision. Adds at least one outcome to `outcomes`.
fn write_decision(
    cx: &Context,
    events: &[CheckedBeforeLock<'_>],
    outcomes: &mut Vec<Outcome>,
) -> Result<(), StoreError> {
    let Some(first) = events.first() else { return Ok(()) };
    let room_id = first.event.room_id;
    cx.store.check_space()?;
    // An earlier decision of the same call may have made the room.
    let is_stale = matches!(first.known, Known::NotHeld) && !outcomes.is_empty();
    let known = if is_stale { Known::look_up(&cx.store, room_id)? } else { first.known.clone() };
    if matches!(known, Known::Deleted) {
        outcomes.push(Outcome::Purged { event_id: first.event.event_id.to_owned() });
        return Ok(());
    }
    // If the store does not hold the room, the first event makes it.
    let checked = match first.for_version(known.version()) {
        Ok(checked) => checked,
        Err(refused) => {
            outcomes.push(refused.into());
            return Ok(());
        }
    };
    let make = Some(checked.version.as_str());
    let decided = cx.store.decide(room_id, make, |edit| append_together(edit, events))?;
    let Some(decided) = decided else {
        // The room has been deleted since.
        let event_id = checked.event.event_id().as_str().to_owned();
        outcomes.push(Outcome::Purged { event_id });
        return Ok(());
    };
    outcomes.extend(decided.outcomes);
    if decided.has_unsettled
        && backlog::turns(&cx.store, room_id, TURNS_BEFORE_ACKNOWLEDGEMENT)? == NotesLeft::Some
    {
        cx.backlog.add(room_id);
    }
    Ok(())
}

/// Appends events of one room in one decision. The decision ends after an event that others waited
/// for, because those are settled before the next event is appended. It also ends after the first
/// event if that is not stored, because such an event must not make a room.
fn append_together(
    edit: &mut Edit<'_>,
    events: &[CheckedBeforeLock<'_>],
) -> Result<Decision<Decided>, StoreError> {
    let mut outcomes = Vec::new();
    let mut is_changed = false;
    let mut bytes = 0;
    expect::events(edit, events.get(..MAX_EVENTS_PER_DECISION).unwrap_or(events))?;
    for event in events.iter().take(MAX_EVENTS_PER_DECISION) {
        let outcome = match append_one(edit, event) {
            Ok(outcome) => outcome,
            Err(NotTaken::Refused(refused)) => refused.into(),
            Err(NotTaken::Store(failure)) => return Err(failure),
        };
        is_changed |= matches!(outcome, Outcome::Appended { duplicate: false, .. });
        outcomes.push(outcome);
        bytes += event.event.pdu.len();
        if !is_changed || edit.has_unsettled() || bytes >= MAX_BYTES_PER_DECISION {
            break;
        }
    }
    let decided = Decided { outcomes, has_unsettled: edit.has_unsettled() };
    Ok(if is_changed { Decision::Commit(decided) } else { Decision::Discard(decided) })
}

/// Appends one event to its room, which is locked.
fn append_one(edit: &mut Edit<'_>, event: &CheckedBeforeLock<'_>) -> Result<Outcome, NotTaken> {
    // Steps 1 to 3: parse, compare, hash. Done before the lock; done again if the version changed.
    let checked = event.for_version(Some(&edit.room.room_version))?;
    let event = event.event;
    let event_id = checked.event.event_id().as_str();

    // Step 4: look up what the room holds under the event's id.
    if edit.is_purged(edit.room_num(), event_id)? {
        return Ok(Outcome::Purged { event_id: event_id.to_owned() });
    }
    let given_state = given_state::look_up(edit, event.state_after, &checked)?;
    let number = match existing(edit, event, &checked)? {
        Existing::None => {
            let number = place::add(edit, event_id, &checked);
            remains::restore(edit, number, event.kept, &checked.event);
            number
        }
        Existing::Outlier { number, body, is_rejection_changed } => {
            if let Some(body) = body {
                replace::replace_body(edit, number, body)?;
            }
            if is_rejection_changed && checked.event.state_entry().is_some() {
                replace::note_states(edit, number)?;
            }
            edit.room.outliers = edit.room.outliers.saturating_sub(1);
            number
        }
        Existing::Purged => return Ok(Outcome::Purged { event_id: event_id.to_owned() }),
        Existing::Held(held) => {
            let number = held.number;
            let change = replace_held(edit, held, given_state, &checked)?;
            return Ok(appended(edit, &checked, number, change)?);
        }
    };

    // Step 5: place the event in the graph.
    let followed = place::place(edit, number, event, &checked, given_state)?;

    // Step 6: settle the state after the event and the current state of the room.
    settle::settle_or_note(edit, number, &checked.event)?;
    settle::keep_last_known(edit, number, &followed)?;
    settle::refresh_current_state(edit)?;
    Ok(appended(edit, &checked, number, Change { is_new: true, ..Change::default() })?)
}

/// How an event changed the room.
#[derive(Clone, Copy, Default)]
struct Change {
    is_new: bool,
    is_replaced: bool,
    is_state_given: bool,
}

/// Replaces what is to be replaced of an event that the room holds, and takes the state that is given
/// for it.
fn replace_held(
    edit: &mut Edit<'_>,
    held: HeldEvent,
    given_state: Option<GivenState>,
    checked: &Checked,
) -> Result<Change, StoreError> {
    let HeldEvent { number, replacement, takes_state } = held;
    let is_replaced = replacement.body.is_some() || replacement.verdict.is_some();
    if let Some(body) = replacement.body {
        replace::replace_body(edit, number, body)?;
    }
    if let Some(verdict) = replacement.verdict {
        replace::replace_verdict(edit, number, verdict)?;
    }
    let is_state_given = takes_state && given_state::replace(edit, number, given_state)?;
    if is_state_given {
        settle::settle_or_note(edit, number, &checked.event)?;
    }
    if is_replaced || is_state_given {
        settle::refresh_current_state(edit)?;
    }
    Ok(Change { is_new: false, is_replaced, is_state_given })
}

/// The outcome for an event that the room holds now.
fn appended(
    edit: &Edit<'_>,
    checked: &Checked,
    number: EventNum,
    change: Change,
) -> Result<Outcome, StoreError> {
    let node = edit.node(number)?;
    let Change { is_new, is_replaced, is_state_given } = change;
    let is_unknown = !node.flags.outlier && node.state_after.is_none();
    Ok(Outcome::Appended {
        event_id: checked.event.event_id().as_str().to_owned(),
        duplicate: !is_new && !is_replaced && !is_state_given,
        replaced: is_replaced,
        redacted: checked.redacted,
        unreadable: match &checked.event {
            Event::Readable(_) => None,
            Event::Unreadable(it) => Some(it.why().clone()),
        },
        state_given: is_state_given,
        // While the room is being derived again, the state is not known yet, but may be soon.
        state_unknown: is_unknown && !edit.is_deriving(edit.room_num())?,
    })
}

//! Where an event lands: its number, its edges, the extremities, the order of arrival.

use std::collections::BTreeSet;

use super::{NewEvent, Refusal, Verdict, check::Checked, extremities, held::read_held, redaction};
use crate::{
    pdu::{Event, EventId, Pdu},
    state::map::Key,
    store::{Edit, EventNode, EventNum, Flags, GivenEvent, PrevEvent, StoreError, View},
};

/// What placing an event came to.
pub(super) enum Placed {
    /// It was there before.
    Before(EventNum),
    /// It was purged.
    Never,
    /// It was there before, and the state after it has come now.
    StateGiven(EventNum),
    /// It has been placed, or is held as an outlier.
    Now {
        /// Its number.
        event: EventNum,
        /// The events that were forward extremities until it came.
        followed: Vec<EventNum>,
    },
}

/// Places an event, unless it is there already.
pub(super) fn place(
    edit: &mut Edit<'_>,
    checked: &Checked,
    event: &NewEvent<'_>,
) -> Result<Result<Placed, Refusal>, StoreError> {
    let event_id = checked.event.event_id().as_str();
    if edit.is_purged(edit.room_num(), event_id)? {
        return Ok(Ok(Placed::Never));
    }
    let given_state = match given_state(edit, event.state_after, checked)? {
        Ok(given) => given,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let held = match edit.event_num(edit.room_num(), event_id)? {
        None => None,
        Some(number) => {
            let EventNode { flags, state_after, .. } = edit.node(number)?;
            if let Some(conflict) = conflict(edit, number, checked, (flags, event))? {
                return Ok(Err(Refusal::Conflict(conflict)));
            }
            if event.outlier {
                return Ok(Ok(Placed::Before(number)));
            }
            if !flags.outlier {
                let given = given_state.filter(|_| state_after.is_none());
                return give_state(edit, number, given).map(Ok);
            }
            if flags.purged {
                return Ok(Ok(Placed::Never));
            }
            edit.room.outliers = edit.room.outliers.saturating_sub(1);
            Some(number)
        }
    };
    let number = match held {
        Some(number) => number,
        None => {
            let number = edit.add_event(event_id);
            edit.put_body(number, event_id, &checked.bytes);
            edit.room.unreadable += u64::from(checked.event.pdu().is_none());
            number
        }
    };
    let arrival = event.arrival.unwrap_or(edit.room.next_arrival);
    edit.room.next_arrival = edit.room.next_arrival.max(arrival.saturating_add(1));
    count(edit, event);
    let mut node = EventNode {
        depth: checked.event.depth(),
        arrival,
        flags: Flags { unreadable: checked.event.pdu().is_none(), ..event.flags() },
        state_after: None,
        prev_events: Vec::new(),
    };
    let are_all_told = tell_who_wants(edit, event_id)?;
    if !are_all_told {
        edit.put_unfinished(number);
    }
    if event.outlier {
        edit.put_node(number, node)?;
        return Ok(Ok(Placed::Now { event: number, followed: Vec::new() }));
    }
    node.prev_events = link(edit, number, &checked.event)?;
    edit.put_node(number, node)?;
    if let Some(given) = given_state {
        edit.put_given_state(number, &given.of(number));
    }
    if !adopt(edit, number, event_id)? {
        edit.put_unfinished(number);
    }
    let followed = extremities::place(edit, number)?;
    redaction::place(edit, number, &checked.event)?;
    Ok(Ok(Placed::Now { event: number, followed }))
}

/// Keeps the state that has come for an event that is held and whose state is not known. What came
/// before in its place is forgotten.
fn give_state(
    edit: &mut Edit<'_>,
    event: EventNum,
    given: Option<GivenState>,
) -> Result<Placed, StoreError> {
    let Some(given) = given.map(|it| it.of(event)) else { return Ok(Placed::Before(event)) };
    let before = edit.given_state(edit.room_num(), event)?.unwrap_or_default();
    // What was not held when it came first may be held by now.
    if ids(edit, &before)? == ids(edit, &given)? {
        return Ok(Placed::Before(event));
    }
    for it in before {
        if let GivenEvent::Named(event_id) = it {
            edit.remove_wanted(&event_id, event);
        }
    }
    edit.put_given_state(event, &given);
    Ok(Placed::StateGiven(event))
}

fn ids(edit: &Edit<'_>, given: &[GivenEvent]) -> Result<BTreeSet<String>, StoreError> {
    let id = |it: &GivenEvent| match it {
        GivenEvent::Held(event) => Ok(edit.body(edit.room_num(), *event)?.event_id),
        GivenEvent::Named(event_id) => Ok(event_id.clone()),
    };
    given.iter().map(id).collect()
}

/// What keeps an event from being the one that is held under its id.
fn conflict(
    edit: &Edit<'_>,
    number: EventNum,
    checked: &Checked,
    (flags, event): (Flags, &NewEvent<'_>),
) -> Result<Option<&'static str>, StoreError> {
    let held = edit.body(edit.room_num(), number)?;
    if held.pdu != checked.bytes && !is_same(&held.pdu, checked) {
        return Ok(Some("other bytes are held under this id; the first to come stays"));
    }
    let same = Verdict::of_flags(flags.rejected, flags.soft_failed) == event.verdict;
    if !flags.outlier && !event.outlier && !same {
        return Ok(Some("the event is held with another verdict; the first to come stays"));
    }
    Ok(None)
}

/// Whether bytes that are held are the same event in another form.
fn is_same(held: &[u8], checked: &Checked) -> bool {
    match &checked.event {
        Event::Readable(pdu) => {
            let held = Pdu::parse(held, checked.version).map(|it| it.canonical_json());
            // What is held in its redacted form only (its redaction was purged) stays so.
            let redacted = || pdu.redacted().map(|it| it.canonical_json());
            held == Ok(pdu.canonical_json()) || held == redacted()
        }
        // A room's file has no line breaks inside an event. In JSON they stand only between its
        // parts.
        Event::Unreadable(_) => {
            let is_break = |byte: u8| matches!(byte, b'\n' | b'\r');
            let in_a_line = |byte: &u8| if is_break(*byte) { b' ' } else { *byte };
            held.iter().map(in_a_line).eq(checked.bytes.iter().map(in_a_line))
        }
    }
}

fn count(edit: &mut Edit<'_>, event: &NewEvent<'_>) {
    if event.outlier {
        edit.room.outliers += 1;
        return;
    }
    match event.verdict {
        Verdict::Accepted => {}
        Verdict::SoftFailed => edit.room.soft_failed += 1,
        Verdict::Rejected => edit.room.rejected += 1,
    }
}

/// Edges that are drawn from an event. Room servers refuse events with more
/// (<https://spec.matrix.org/v1.16/rooms/v11/#event-format>), but what a homeserver holds may be
/// older than that rule. What is behind the other predecessors is not reached from this event: it
/// has a gap there, and the state after it is known only if it is given.
pub const MAX_PREV_EVENTS: usize = 20;
/// Ids of a state that is given with an event.
pub const MAX_STATE_AFTER: usize = 200_000;

/// Draws the edges to the event's predecessors, and notes those that are not placed.
pub(super) fn link(
    edit: &mut Edit<'_>,
    number: EventNum,
    event: &Event,
) -> Result<Vec<PrevEvent>, StoreError> {
    let mut edges = Vec::new();
    for (place, prev) in (0u32..).zip(event.prev_events()).take(MAX_PREV_EVENTS) {
        if prev == event.event_id() {
            // Only room versions 1 and 2, which choose their ids, could do this.
            edges.push(PrevEvent::Missing);
            continue;
        }
        let held = edit.event_num(edit.room_num(), prev.as_str())?;
        match held {
            Some(prev) if !edit.node(prev)?.flags.outlier => edges.push(PrevEvent::Held(prev)),
            _ => {
                edit.put_missing(prev.as_str(), number, place);
                edges.push(PrevEvent::Missing);
            }
        }
    }
    if event.prev_events().len() > MAX_PREV_EVENTS {
        edges.push(PrevEvent::Missing);
    }
    Ok(edges)
}

/// Events that are told of another in one go. Strangers choose how many there are; the rest is left
/// to a note.
pub(super) const TOLD_AT_ONCE: usize = 64;

/// Goes on with what was left when an event was placed, or came as an outlier.
pub(super) fn finish(
    edit: &mut Edit<'_>,
    number: EventNum,
    is_outlier: bool,
) -> Result<(), StoreError> {
    let event_id = edit.body(edit.room_num(), number)?.event_id;
    let are_all_told = tell_who_wants(edit, &event_id)?;
    let are_all_tied = is_outlier || adopt(edit, number, &event_id)?;
    if !(are_all_told && are_all_tied) {
        edit.put_unfinished(number);
    }
    Ok(())
}

/// Notes of events whose state needs one that has come that it may be known now. Whether these are
/// all.
fn tell_who_wants(edit: &mut Edit<'_>, event_id: &str) -> Result<bool, StoreError> {
    let followers = edit.wanted_by(edit.room_num(), event_id, TOLD_AT_ONCE)?;
    for follower in &followers {
        edit.remove_wanted(event_id, *follower);
        edit.put_unsettled(*follower)?;
        if edit.room.current_state.is_none() {
            edit.room.resolved_from.clear();
        }
    }
    Ok(followers.len() < TOLD_AT_ONCE)
}

/// Ties an event to those that came before it and reference it. Their states wait for its own.
/// Whether these are all.
fn adopt(edit: &mut Edit<'_>, number: EventNum, event_id: &str) -> Result<bool, StoreError> {
    let followers = edit.followers_of_missing(edit.room_num(), event_id, TOLD_AT_ONCE)?;
    for (follower, place) in followers.iter().copied() {
        edit.remove_missing(event_id, follower);
        let mut node = edit.node(follower)?;
        let place = usize::try_from(place).ok();
        if let Some(edge) = place.and_then(|it| node.prev_events.get_mut(it)) {
            *edge = PrevEvent::Held(number);
        }
        let state_known = node.state_after.is_some();
        edit.put_node(follower, node)?;
        extremities::followed_by(edit, number, follower)?;
        // Of a state that came with its event, the state before it may become known.
        if !state_known || edit.given_state(edit.room_num(), follower)?.is_some() {
            edit.put_waiting(number, follower);
        }
    }
    Ok(followers.len() < TOLD_AT_ONCE)
}

/// The state that came with an event.
struct GivenState {
    /// Whether the event itself is part of it.
    own: bool,
    others: Vec<GivenEvent>,
}

impl GivenState {
    /// As it is kept: the event itself stands last.
    fn of(self, event: EventNum) -> Vec<GivenEvent> {
        let Self { own, mut others } = self;
        others.extend(own.then_some(GivenEvent::Held(event)));
        others
    }
}

/// Looks up the state that came with an event. What is not held yet may still come.
fn given_state(
    edit: &Edit<'_>,
    state_after: &[String],
    checked: &Checked,
) -> Result<Result<Option<GivenState>, Refusal>, StoreError> {
    if state_after.is_empty() {
        return Ok(Ok(None));
    }
    let refused = |event_id: &str, what| {
        let event_id = event_id.to_owned();
        Ok(Err(Refusal::StateInvalid { event_id, what }))
    };
    if state_after.len() > MAX_STATE_AFTER {
        return Ok(Err(Refusal::StateTooLong(state_after.len())));
    }
    let (mut own, mut others) = (false, Vec::with_capacity(state_after.len()));
    let mut entries = BTreeSet::new();
    for event_id in state_after {
        let held = edit.event_num(edit.room_num(), event_id)?;
        let read;
        let event = if *checked.event.event_id() == **event_id {
            own = true;
            &checked.event
        } else if let Some(held) = held {
            others.push(GivenEvent::Held(held));
            read = read_held(edit, held, checked.version)?;
            &read
        } else if EventId::parse(event_id).is_err() {
            return refused(event_id, "is no event id");
        } else {
            others.push(GivenEvent::Named(event_id.clone()));
            continue;
        };
        let Some((event_type, state_key)) = event.state_entry() else {
            // For what an unreadable event stands may be unreadable, too: then for nothing.
            match event {
                Event::Readable(_) => return refused(event_id, "is not a state event"),
                Event::Unreadable(_) => continue,
            }
        };
        if !entries.insert(Key::of_state(event_type, state_key)) {
            return refused(event_id, "is the second event for its type and state key");
        }
    }
    Ok(Ok(Some(GivenState { own, others })))
}

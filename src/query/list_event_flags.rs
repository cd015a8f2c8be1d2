//! The ids and flags of the events of one part of a room. For feeders, which call it where the
//! digests differ.

use super::{
    QueryError, Question,
    admission::find_internal,
    paging::{AnswerSpace, PageRequest, token},
    room_digest::MAX_PREFIX_BITS,
};
use crate::{
    context::Context,
    deadline::Deadline,
    ingest::Verdict,
    pdu::Event,
    store::{HeldId, StoreError, View as _},
};

/// The most events of a page.
const MAX_PAGE: u32 = 10_000;
/// The events of a page when the caller does not say.
const DEFAULT_PAGE: u32 = 1_000;
/// The ids that are read at once.
const IDS_AT_ONCE: usize = 256;

/// What is known of an event without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFlags {
    /// The id of the event.
    pub event_id: String,
    /// The homeserver's verdict on the event.
    pub verdict: Verdict,
    /// Whether the event is held without a place in the graph.
    pub outlier: bool,
    /// Whether it is a state event.
    pub is_state: bool,
}

/// A page of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFlagsList {
    /// The events, in the order of the SHA-256 of their ids.
    pub events: Vec<EventFlags>,
    /// The token for the next page; empty on the last page.
    pub next_page_token: String,
}

/// Asks for the ids and flags of the events of one part of a room.
#[derive(Clone, Debug)]
pub struct ListEventFlags {
    /// The id of the room.
    pub room_id: String,
    /// The number of leading bits of the SHA-256 of an event id that select its part: at most 12.
    pub prefix_bits: u32,
    /// The value of these bits.
    pub prefix: u32,
    /// The part of the list.
    pub page: PageRequest,
}

/// The hashes of a part: all from `first` to `last`.
#[derive(Clone, Copy)]
struct HashRange {
    first: u128,
    last: u128,
}

impl ListEventFlags {
    /// The bounds of the part; `None` if there is no such part.
    fn bounds(&self) -> Option<HashRange> {
        let Self { prefix_bits, prefix, .. } = *self;
        if prefix_bits > MAX_PREFIX_BITS || prefix >> prefix_bits != 0 {
            return None;
        }
        let first = u128::from(prefix).checked_shl(128 - prefix_bits).unwrap_or(0);
        Some(HashRange { first, last: first | u128::MAX.checked_shr(prefix_bits).unwrap_or(0) })
    }
}

impl Question for ListEventFlags {
    type Answer = EventFlagsList;

    fn room_id(&self) -> Option<&str> {
        Some(&self.room_id)
    }

    fn try_answer(&self, cx: &Context, deadline: &Deadline) -> Result<EventFlagsList, QueryError> {
        let store = &cx.store;
        let room = find_internal(store, &self.room_id)?;
        let HashRange { first, last } = self.bounds().ok_or(QueryError::PrefixInvalid)?;
        let parse = |text: &str| {
            let hash = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok())??;
            Some(hash).filter(|it| (first..=last).contains(it))
        };
        let after = self.page.position(&room, parse)?;
        let size = self.page.size(DEFAULT_PAGE, MAX_PAGE);
        let topology = store.topology(room.number);
        let mut space = AnswerSpace::default();
        let mut list = EventFlagsList::default();
        let mut after = after.or(first.checked_sub(1)).map(u128::to_be_bytes);
        loop {
            let held = store.held_ids(room.number, after, IDS_AT_ONCE)?;
            for HeldId { hash, event } in held.ids {
                deadline.check()?;
                if u128::from_be_bytes(hash) > last {
                    return Ok(list);
                }
                // It may have been removed since its id was read.
                let Some(node) = topology.node(event)? else { continue };
                let body = store.body(room.number, event)?;
                if list.events.len() >= size || !space.take(body.event_id.len()) {
                    let before = after.map_or(0, u128::from_be_bytes);
                    list.next_page_token = token(&room, format_args!("{before:032x}"));
                    return Ok(list);
                }
                let read = Event::read(&body.pdu, room.version, &body.event_id);
                let damaged = |_| StoreError::corrupt("body", body.event_id.as_bytes());
                let is_state = read.map_err(damaged)?.state_entry().is_some();
                let verdict = Verdict::of_flags(node.flags.rejected, node.flags.soft_failed);
                let outlier = node.flags.outlier;
                let event_id = body.event_id;
                list.events.push(EventFlags { event_id, verdict, outlier, is_state });
                after = Some(hash);
            }
            match held.next {
                Some(next) if u128::from_be_bytes(next) < last => after = Some(next),
                Some(_) | None => return Ok(list),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_room_have_no_gap_and_no_overlap() {
        for prefix_bits in [0, 1, 7, 12] {
            let mut next = Some(0);
            for prefix in 0..1 << prefix_bits {
                let question = ListEventFlags {
                    room_id: String::new(),
                    prefix_bits,
                    prefix,
                    page: PageRequest::first(0),
                };
                let HashRange { first, last } = question.bounds().unwrap();
                assert_eq!(next, Some(first));
                next = last.checked_add(1);
            }
            assert_eq!(next, None);
        }
        for (prefix_bits, prefix) in [(13, 0), (0, 1), (12, 4_096), (u32::MAX, 0)] {
            let page = PageRequest::first(0);
            let question = ListEventFlags { room_id: String::new(), prefix_bits, prefix, page };
            assert!(question.bounds().is_none(), "{prefix_bits} {prefix}");
        }
    }
}

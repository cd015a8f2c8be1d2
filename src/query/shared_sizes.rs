//! The sizes of a store that several processes share: one of them measures, at most every 15 minutes,
//! and all show what it has found.

use std::time::{Duration, Instant};

use super::{QueryError, Sizes, stats};
use crate::{
    context::Context,
    store::{Leased, Measurement, StoreError},
};

/// The least time between two measurements.
const MEASURE_EVERY: Duration = Duration::from_mins(15);

/// What one process knows of the measurements.
#[derive(Debug, Default)]
pub struct SharedSizes {
    /// The last measurement that it has seen.
    seen: Option<Measurement>,
    /// When it saw that first.
    since: Option<Instant>,
}

impl SharedSizes {
    /// The sizes of the store, as some process has measured them; `None` if none has.
    ///
    /// # Errors
    /// The store failed.
    pub fn look(&mut self, cx: &Context, now: Instant) -> Result<Option<Sizes>, QueryError> {
        let stored = cx.store.measurement()?;
        if stored != self.seen || self.since.is_none() {
            self.seen.clone_from(&stored);
            self.since = Some(now);
        }
        let is_old = stored.is_none() || self.is_old(now);
        if !is_old {
            return Ok(stored.and_then(|it| decode(&it.figures)));
        }
        match cx.store.try_lease(Leased::Measurement)? {
            Some(lease) => {
                let measured = measure(cx);
                cx.store.release(&lease);
                measured.map(Some)
            }
            None => Ok(stored.and_then(|it| decode(&it.figures))),
        }
    }

    fn is_old(&self, now: Instant) -> bool {
        self.since.is_none_or(|it| now.saturating_duration_since(it) >= MEASURE_EVERY)
    }
}

fn measure(cx: &Context) -> Result<Sizes, QueryError> {
    let sizes = stats(cx)?.sizes;
    let measurement = Measurement { id: rand::random(), figures: encode(sizes) };
    cx.store.put_measurement(&measurement)?;
    Ok::<_, StoreError>(sizes).map_err(Into::into)
}

fn encode(sizes: Sizes) -> Vec<u64> {
    let Sizes {
        rooms,
        events,
        forward_extremities,
        widest,
        gaps,
        waiting,
        unreadable,
        state_unknown,
        content_due,
        oldest_content_ms,
        not_served,
        store_bytes,
        free_bytes,
    } = sizes;
    vec![
        rooms,
        events,
        forward_extremities,
        widest,
        gaps,
        waiting,
        unreadable,
        state_unknown,
        content_due,
        // No event was redacted in 1970.
        oldest_content_ms.unwrap_or(0),
        not_served,
        store_bytes,
        free_bytes,
    ]
}

/// The sizes; `None` if a build has stored them that measures others.
fn decode(figures: &[u64]) -> Option<Sizes> {
    let figures: [u64; 13] = figures.try_into().ok()?;
    let [
        rooms,
        events,
        forward_extremities,
        widest,
        gaps,
        waiting,
        unreadable,
        state_unknown,
        content_due,
        oldest,
        not_served,
        store_bytes,
        free_bytes,
    ] = figures;
    Some(Sizes {
        rooms,
        events,
        forward_extremities,
        widest,
        gaps,
        waiting,
        unreadable,
        state_unknown,
        content_due,
        oldest_content_ms: (oldest > 0).then_some(oldest),
        not_served,
        store_bytes,
        free_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn one_process_measures_for_all_and_not_too_often() {
        let mut all = Store::sharing(2).into_iter().map(Context::new);
        let (one, other) = (all.next().unwrap(), all.next().unwrap());
        let [mut by_one, mut by_other] = [SharedSizes::default(), SharedSizes::default()];
        let start = Instant::now();
        let rooms = |it: Result<Option<Sizes>, QueryError>| it.unwrap().map(|it| it.rooms);
        assert_eq!(rooms(by_one.look(&one, start)), Some(0));
        one.store.edit("!a:b", Some("10")).unwrap().unwrap().commit().unwrap();
        // What one has measured is shown by both.
        assert_eq!(rooms(by_other.look(&other, start)), Some(0));
        assert_eq!(rooms(by_one.look(&one, start + MEASURE_EVERY / 2)), Some(0));
        let later = start + 2 * MEASURE_EVERY;
        let lease = one.store.try_lease(Leased::Measurement).unwrap().unwrap();
        assert_eq!(rooms(by_other.look(&other, later)), Some(0));
        one.store.release(&lease);
        assert_eq!(rooms(by_other.look(&other, later)), Some(1));
        assert_eq!(rooms(by_one.look(&one, later)), Some(1));
        let seen = one.store.measurement().unwrap();
        assert_eq!(rooms(by_one.look(&one, later + MEASURE_EVERY / 2)), Some(1));
        assert_eq!(one.store.measurement().unwrap(), seen);
    }

    #[test]
    fn sizes_are_read_as_they_were_written() {
        let sizes =
            Sizes { rooms: 1, oldest_content_ms: Some(7), free_bytes: 13, ..Sizes::default() };
        assert_eq!(decode(&encode(sizes)), Some(sizes));
        assert_eq!(decode(&encode(Sizes::default())), Some(Sizes::default()));
        assert_eq!(decode(&[1, 2]), None);
    }
}

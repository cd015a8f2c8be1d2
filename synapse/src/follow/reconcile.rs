//! Makes one room of the history service equal to the room in the database.
//!
//! Both sides compute the digests of the parts of the room. Only parts that differ are listed, and only
//! events that differ are sent. Where that does not make the rooms equal, the room is deleted and copied
//! whole, once; a room that differs after that is marked as not served.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use tokio_postgres::Transaction;

use super::{
    Context, lock,
    plan::{OurEvent, Plan},
    send,
};
use crate::{
    database::{Session, digest, rooms_state::partial_rooms, rows},
    digest::{Parts, RoomParts, prefix_bits},
    history::{
        append::SendResult,
        rooms::{self, NotServed, TakeOut},
    },
    metrics::{Difference, EventOutcome},
    proto::v1::{NotServedReason, RefusalReason, Replace},
};

/// The most events of parts that differ which are mended one by one. With more, the room is copied
/// whole, which is faster.
const MAX_MENDED: u64 = 50_000;
/// The most events that are listed at once.
const MAX_LISTED: u64 = 20_000;
/// The most events that are read at once.
const MAX_READ: usize = 500;
/// How often a room is compared until it counts as different: rows may change in between.
const ATTEMPTS: u32 = 3;

/// Why a room is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A digest differs, or may differ.
    Compare,
    /// Synapse has deleted the room. It may be back, as another copy.
    Deleted,
    /// An event conflicts with what is held under its id. If the room does not differ otherwise, only a
    /// new copy of it helps.
    Conflict,
}

/// How a comparison of a room has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reconciled {
    /// It was equal.
    Equal,
    /// It is equal now.
    Mended,
    /// Synapse does not hold it, and now the history service does not either.
    Gone,
    /// It was deleted, and waits to be copied whole.
    ImportAgain,
    /// It was copied whole before and still differs. It is marked as not served.
    Differs,
    /// Synapse does not know its full state. It is copied when Synapse does.
    Partial,
}

/// How an attempt to mend a room has ended.
enum MendOutcome {
    Done(Reconciled),
    /// Events were sent, and the digests still differ.
    StillDiffers,
    /// Events cannot make the rooms equal.
    Hopeless,
}

/// A room to look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look<'a> {
    /// The room.
    pub(crate) room_id: &'a str,
    /// Why it is compared.
    pub(crate) reason: Reason,
    /// Events that differed before the last tick. Only these count as differences: others may have
    /// become visible just now.
    pub(crate) suspects: &'a BTreeSet<String>,
}

impl<'a> Look<'a> {
    /// A room that has changed late: nothing that differs counts.
    #[must_use]
    pub(crate) fn late(room_id: &'a str, reason: Reason) -> Self {
        static NONE: BTreeSet<String> = BTreeSet::new();
        Self { room_id, reason, suspects: &NONE }
    }
}

/// Looks at a room again, and makes it equal. The caller holds `context.writing`.
///
/// # Errors
/// When the database or the history service fails.
pub(crate) async fn reconcile(
    context: &Context,
    session: &mut Session,
    look: Look<'_>,
) -> anyhow::Result<Reconciled> {
    let Look { room_id, reason, .. } = look;
    for _ in 0..ATTEMPTS {
        let transaction = session.begin().await?;
        let attempt = mend(context, &transaction, look).await.context("cannot compare a room")?;
        transaction.commit().await?;
        match attempt {
            MendOutcome::Done(Reconciled::Partial) => return Ok(Reconciled::Partial),
            MendOutcome::Done(ended) => {
                let differed = lock(&context.sweep).is_equal(room_id);
                if differed {
                    lock(&context.rooms).set_differing(room_id, false);
                    context.tell().await?;
                }
                return Ok(ended);
            }
            MendOutcome::StillDiffers => {}
            MendOutcome::Hopeless => break,
        }
    }
    give_up(context, room_id, reason).await
}

/// The events of a room that differ now, without mending them. `None` if they are too many to be listed.
///
/// # Errors
/// When the database or the history service fails.
pub(crate) async fn differing_events(
    context: &Context,
    session: &mut Session,
    room_id: &str,
) -> anyhow::Result<Option<BTreeSet<String>>> {
    let transaction = session.begin().await?;
    let Compared { parts, theirs, ours } = compare(context, &transaction, room_id).await?;
    let differing = ours.differing(&theirs);
    if differing.values().sum::<u64>() > MAX_LISTED {
        return Ok(None);
    }
    let prefixes: Vec<u32> = differing.into_keys().collect();
    let theirs = digest::list_parts(&transaction, parts, &prefixes).await?;
    let ours = rooms::list(&context.history, parts, &prefixes).await?;
    let ours = ours.into_iter().map(|(id, it)| (id, OurEvent::from(it))).collect();
    let Plan { append, make_outliers, remove, not_removable } = Plan::new(&theirs, &ours);
    let ids = append.into_keys().chain(make_outliers).chain(remove).chain(not_removable);
    Ok(Some(ids.collect()))
}

/// Deletes the room, to be copied whole; or marks it, if that was tried before and did not help.
async fn give_up(context: &Context, room_id: &str, reason: Reason) -> anyhow::Result<Reconciled> {
    let is_first = lock(&context.sweep).copy_again(room_id);
    if !is_first && reason != Reason::Deleted {
        tracing::error!(room_id, "a room differs although it was copied whole; it is not served");
        lock(&context.rooms).set_differing(room_id, true);
        context.tell().await?;
        return Ok(Reconciled::Differs);
    }
    tracing::warn!(room_id, ?reason, "a room is deleted and copied whole");
    let reason = NotServedReason::Importing;
    rooms::set_not_served(&context.history, NotServed { room_id, reason }).await?;
    rooms::delete(&context.history, room_id).await?;
    lock(&context.import_again).insert(room_id.to_owned());
    Ok(Reconciled::ImportAgain)
}

/// The digests of both sides.
struct Compared<'a> {
    parts: RoomParts<'a>,
    theirs: Parts,
    ours: Parts,
}

async fn compare<'a>(
    context: &Context,
    transaction: &Transaction<'_>,
    room_id: &'a str,
) -> anyhow::Result<Compared<'a>> {
    let our_count = rooms::event_count(&context.history, room_id).await?;
    let parts = RoomParts { room_id, prefix_bits: prefix_bits(our_count) };
    let theirs = digest::of_parts(transaction, parts).await?;
    let ours = rooms::digest(&context.history, room_id, parts.prefix_bits).await?;
    Ok(Compared { parts, theirs, ours })
}

async fn mend(
    context: &Context,
    transaction: &Transaction<'_>,
    look: Look<'_>,
) -> anyhow::Result<MendOutcome> {
    let Look { room_id, reason, .. } = look;
    if !partial_rooms(transaction, &[room_id].into()).await?.is_empty() {
        return Ok(MendOutcome::Done(Reconciled::Partial));
    }
    let Compared { parts, theirs, ours } = compare(context, transaction, room_id).await?;
    if theirs.events() == 0 && ours.events() > 0 {
        rooms::delete(&context.history, room_id).await?;
        return Ok(MendOutcome::Done(Reconciled::Gone));
    }
    let differing = ours.differing(&theirs);
    let count: u64 = differing.values().sum();
    match reason {
        Reason::Conflict if count == 0 => return Ok(MendOutcome::Hopeless),
        _ if count == 0 => return Ok(MendOutcome::Done(Reconciled::Equal)),
        Reason::Deleted => return Ok(MendOutcome::Hopeless),
        Reason::Compare | Reason::Conflict if count > MAX_MENDED => {
            return Ok(MendOutcome::Hopeless);
        }
        Reason::Compare | Reason::Conflict => {}
    }
    let mut mending = Mending { context, look, parts, expected: theirs };
    for prefixes in groups(&differing) {
        if !mending.mend_parts(transaction, &prefixes).await? {
            return Ok(MendOutcome::Hopeless);
        }
    }
    match rooms::digest(&context.history, room_id, parts.prefix_bits).await? == mending.expected {
        true => Ok(MendOutcome::Done(Reconciled::Mended)),
        false => Ok(MendOutcome::StillDiffers),
    }
}

/// A room of which some parts differ.
struct Mending<'a> {
    context: &'a Context,
    look: Look<'a>,
    parts: RoomParts<'a>,
    /// The digest that the history service has when the room is mended: that of the database, without
    /// events that the history service refuses.
    expected: Parts,
}

impl Mending<'_> {
    /// Mends some parts. Returns whether they can become equal.
    async fn mend_parts(
        &mut self,
        transaction: &Transaction<'_>,
        prefixes: &[u32],
    ) -> anyhow::Result<bool> {
        let (context, room_id) = (self.context, self.look.room_id);
        let theirs = digest::list_parts(transaction, self.parts, prefixes).await?;
        let ours = rooms::list(&context.history, self.parts, prefixes).await?;
        let ours = ours.into_iter().map(|(id, it)| (id, OurEvent::from(it))).collect();
        let Plan { append, make_outliers, remove, not_removable } = Plan::new(&theirs, &ours);
        for event_id in remove.iter().chain(&not_removable) {
            self.count(event_id, Difference::Superfluous);
        }
        if !not_removable.is_empty() {
            return Ok(false);
        }
        for event_id in &make_outliers {
            self.count(event_id, Difference::Outlier);
        }
        take_out(context, room_id, TakeOut { event_ids: make_outliers, keep_as_outliers: true })
            .await?;
        take_out(context, room_id, TakeOut { event_ids: remove, keep_as_outliers: false }).await?;
        let ids: Vec<String> = append.keys().cloned().collect();
        for ids in ids.chunks(MAX_READ) {
            let rows = rows::by_id(transaction, ids).await?;
            let to_send = send::with_states(context, transaction, rows).await?;
            for sent in send::send(context, to_send, Replace::Changed).await? {
                let event_id = &sent.event_id;
                match sent.result {
                    SendResult::Refused(why) if why.reason == RefusalReason::Conflict => {
                        return Ok(false);
                    }
                    SendResult::Refused(_) | SendResult::Purged => {
                        if let Some(held) = theirs.get(event_id) {
                            self.expected.remove(event_id, *held);
                        }
                    }
                    _ => {
                        let difference = append.get(event_id).copied();
                        self.count(event_id, difference.unwrap_or(Difference::Missing));
                    }
                }
            }
        }
        Ok(true)
    }

    fn count(&self, event_id: &str, difference: Difference) {
        if self.look.suspects.contains(event_id) {
            self.context.metrics.difference(difference, 1);
        }
    }
}

/// Takes events out of the graph of the history service, and counts them.
pub(super) async fn take_out(
    context: &Context,
    room_id: &str,
    events: TakeOut,
) -> anyhow::Result<()> {
    let count = rooms::take_out(&context.history, room_id, events).await?;
    context.metrics.events(EventOutcome::Removed, count);
    Ok(())
}

/// Groups parts so that each group can be listed at once.
fn groups(differing: &BTreeMap<u32, u64>) -> Vec<Vec<u32>> {
    let mut groups: Vec<Vec<u32>> = Vec::new();
    let mut events = u64::MAX;
    for (prefix, count) in differing {
        match groups.last_mut() {
            Some(group) if events.saturating_add(*count) <= MAX_LISTED => {
                group.push(*prefix);
                events = events.saturating_add(*count);
            }
            _ => {
                groups.push(vec![*prefix]);
                events = *count;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_grouped_up_to_what_is_listed_at_once() {
        let parts = [(1, MAX_LISTED - 1), (4, 1), (5, 1), (9, MAX_LISTED * 2), (10, 1)].into();
        assert_eq!(groups(&parts), [vec![1, 4], vec![5], vec![9], vec![10]]);
        assert!(groups(&[].into()).is_empty());
    }
}

//! One slice of a sweep after the other.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::{Instant, timeout};

use super::cursor::{Intervals, Pass};
use crate::{
    database::{
        Session, digest,
        rooms_state::{self, held_rooms, partial_rooms, rooms_after},
        rows::{self, EventRow, RoomPart},
    },
    follow::{
        Context,
        late::SweepKind,
        lock,
        reconcile::{Look, Reason, Reconciled, differing_events, reconcile},
        rooms::RoomSize,
        send::{self, ToSend},
    },
    history::{append::SendResult, rooms},
    metrics::Difference,
    proto::v1::{DigestPart, RefusalReason, Replace},
};

/// The most events of which the bytes are compared at once.
const MAX_EVENTS: u64 = 500;
/// The most rooms of which digests are compared at once.
const MAX_ROOMS: i64 = 1_000;
/// The number of rooms in the first slice.
const FIRST_ROOMS: i64 = 50;
/// A slice should take this time: then the next one has more or fewer rooms.
const SLICE_TIME: Duration = Duration::from_millis(250);
/// Digests that are asked for at the same time.
const CALLS: usize = 8;
/// Longest wait for a tick.
const MAX_TICK_WAIT: Duration = Duration::from_secs(10);

/// Sweeps rooms in slices.
pub(super) struct Sweeper<'a> {
    context: &'a Context,
    session: Session,
    intervals: Intervals,
    /// Number of rooms in the next group.
    group_size: i64,
    /// The group of which the bytes are compared.
    group: Option<Group>,
}

/// Rooms of which the bytes are compared.
struct Group {
    /// The sweep, at the beginning of the group.
    pass: Pass,
    /// What is left.
    left: VecDeque<Bytes>,
    /// The last room of the group.
    last_room: String,
}

/// Events of which the bytes are compared at once.
enum Bytes {
    /// All events of some small rooms.
    Rooms(Vec<String>),
    /// The events of a large room after a stream ordering.
    Part { room_id: String, after: i64 },
}

impl<'a> Sweeper<'a> {
    pub(super) fn new(context: &'a Context, session: Session, intervals: Intervals) -> Self {
        Self { context, session, intervals, group_size: FIRST_ROOMS, group: None }
    }

    /// Does one slice of work, if any is due. Returns whether there was any.
    pub(super) async fn slice(&mut self) -> anyhow::Result<bool> {
        let soon = lock(&self.context.sweep).next_soon();
        if let Some(room_id) = soon {
            self.check(&room_id).await?;
            lock(&self.context.sweep).compared(&room_id);
            return Ok(true);
        }
        let transaction = self.session.begin().await?;
        let now = rooms_state::now(&transaction).await?;
        transaction.commit().await?;
        let due = lock(&self.context.sweep).due(now, self.intervals);
        let Some(pass) = due else {
            self.group = None;
            return Ok(false);
        };
        match self.group.take().filter(|it| it.pass == pass) {
            Some(group) => self.continue_group(group).await?,
            None => self.next_group(pass, now).await?,
        }
        Ok(true)
    }

    /// Compares the digests of the next rooms.
    async fn next_group(&mut self, pass: Pass, now: u64) -> anyhow::Result<()> {
        let began = Instant::now();
        let transaction = self.session.begin().await?;
        let room_ids = rooms_after(&transaction, &pass.after, self.group_size).await?;
        let Some(last_room) = room_ids.last().cloned() else {
            transaction.commit().await?;
            return self.finish(pass, now).await;
        };
        let theirs = digest::of_rooms(&transaction, &room_ids).await?;
        let all = room_ids.iter().map(String::as_str).collect();
        let mut skipped = partial_rooms(&transaction, &all).await?;
        transaction.commit().await?;
        self.context.metrics.query("room_digests", began.elapsed());
        skipped.extend(rooms::importing(&self.context.history).await?);
        let room_ids: Vec<String> =
            room_ids.into_iter().filter(|it| !skipped.contains(it)).collect();
        let ours = self.our_digests(&room_ids).await?;
        for room_id in &room_ids {
            let differs = theirs.get(room_id).copied().unwrap_or_default()
                != ours.get(room_id).copied().unwrap_or_default();
            if differs || lock(&self.context.sweep).was_copied_again(room_id) {
                self.check(room_id).await?;
            }
        }
        self.adapt(began.elapsed());
        if pass.kind == SweepKind::Flags {
            lock(&self.context.sweep).done_up_to(&pass, &last_room);
            return Ok(());
        }
        let sizes = room_ids.into_iter().map(|it| {
            let events = theirs.get(&it).map_or(0, |it| it.event_count);
            RoomSize { room_id: it, events }
        });
        self.group = Some(Group { pass, left: batches(sizes), last_room });
        Ok(())
    }

    fn adapt(&mut self, took: Duration) {
        if took > SLICE_TIME.saturating_mul(2) {
            self.group_size = self.group_size.div_euclid(2).max(1);
        } else if took < SLICE_TIME {
            self.group_size = self.group_size.saturating_mul(2).min(MAX_ROOMS);
        }
    }

    async fn our_digests(
        &self,
        room_ids: &[String],
    ) -> anyhow::Result<BTreeMap<String, DigestPart>> {
        let calls: Vec<_> = room_ids
            .iter()
            .map(|room_id| {
                let (history, room_id) = (self.context.history.clone(), room_id.clone());
                async move {
                    let parts = rooms::digest(&history, &room_id, 0).await?;
                    anyhow::Ok((room_id, parts.0.first().copied().unwrap_or_default()))
                }
            })
            .collect();
        let digests = stream::iter(calls);
        digests.buffer_unordered(CALLS).try_collect().await
    }

    /// Mends a room if it differs now and still differs after the next tick.
    async fn check(&mut self, room_id: &str) -> anyhow::Result<()> {
        let Self { context, session, .. } = self;
        let began = Instant::now();
        let suspects = differing_events(context, session, room_id).await?;
        context.metrics.query("room_parts", began.elapsed());
        if suspects.as_ref().is_some_and(BTreeSet::is_empty) {
            // Only rooms that were marked before need more.
            if !lock(&context.sweep).was_copied_again(room_id) {
                return Ok(());
            }
        }
        // Without ticks, for example during a long import, there is nothing to wait for.
        let health = context.metrics.health();
        drop(timeout(MAX_TICK_WAIT, health.tick_after(Instant::now())).await);
        let suspects = suspects.unwrap_or_default();
        let look = Look { room_id, reason: Reason::Compare, suspects: &suspects };
        let _writing = context.writing.lock().await;
        let ended = reconcile(context, session, look).await?;
        match ended {
            Reconciled::Equal => {}
            Reconciled::Gone => context.metrics.difference(Difference::Room, 1),
            ended => tracing::info!(room_id, ?ended, "a room differed"),
        }
        Ok(())
    }

    /// Compares the bytes of the next events of a group.
    async fn continue_group(&mut self, mut group: Group) -> anyhow::Result<()> {
        let Some(next) = group.left.pop_front() else {
            lock(&self.context.sweep).done_up_to(&group.pass, &group.last_room);
            return Ok(());
        };
        if let Some(rest) = self.compare_bytes(next).await? {
            group.left.push_front(rest);
        }
        self.group = Some(group);
        Ok(())
    }

    /// Appends events again. Returns what is left of the room.
    async fn compare_bytes(&mut self, events: Bytes) -> anyhow::Result<Option<Bytes>> {
        let Self { context, session, .. } = self;
        let writing = context.writing.lock().await;
        let began = Instant::now();
        let transaction = session.begin().await?;
        let (read, rest) = match events {
            Bytes::Rooms(room_ids) => (rows::of_rooms(&transaction, &room_ids).await?, None),
            Bytes::Part { room_id, after } => {
                let limit = i64::try_from(MAX_EVENTS).unwrap_or(i64::MAX);
                let part = RoomPart { room_id: &room_id, after, limit };
                let read = rows::of_room_part(&transaction, part).await?;
                let last = read.last().map(|it| it.stream_ordering);
                (read, last.map(|after| Bytes::Part { room_id, after }))
            }
        };
        transaction.commit().await?;
        context.metrics.query("sweep_rows", began.elapsed());
        let conflicts = self.append_again(read).await?;
        let Self { context, session, .. } = self;
        for room_id in conflicts {
            let look = Look::late(&room_id, Reason::Conflict);
            let ended = reconcile(context, session, look).await?;
            tracing::info!(room_id, ?ended, "an event conflicts with what is held");
        }
        drop(writing);
        Ok(rest)
    }

    /// Appends events again, without states: the history service has them. Returns the rooms of events
    /// that conflict with what is held.
    async fn append_again(&mut self, read: Vec<EventRow>) -> anyhow::Result<BTreeSet<String>> {
        let to_send = read.into_iter().map(|row| ToSend { row, state_after: Vec::new() }).collect();
        let sent = send::send(self.context, to_send, Replace::Changed).await?;
        let mut conflicts = BTreeSet::new();
        for event in sent {
            match event.result {
                SendResult::Replaced => {
                    self.context.metrics.difference(Difference::Bytes, 1);
                    let (room_id, event_id) = (event.room_id, event.event_id);
                    tracing::info!(room_id, event_id, "an event had other bytes");
                }
                SendResult::Refused(why) if why.reason == RefusalReason::Conflict => {
                    conflicts.insert(event.room_id);
                }
                // It became visible just now, and the next tick sends it again with its state.
                SendResult::Appended
                | SendResult::Duplicate
                | SendResult::Purged
                | SendResult::Unreadable(_)
                | SendResult::Refused(_) => {}
            }
        }
        Ok(conflicts)
    }

    /// Deletes rooms that only the history service holds, and ends the sweep.
    async fn finish(&mut self, pass: Pass, now: u64) -> anyhow::Result<()> {
        let mut page_token = String::new();
        loop {
            let page = rooms::held(&self.context.history, page_token).await?;
            let room_ids: BTreeSet<&str> = page.room_ids.iter().map(String::as_str).collect();
            let transaction = self.session.begin().await?;
            let held = held_rooms(&transaction, &room_ids).await.context("cannot list rooms")?;
            transaction.commit().await?;
            for room_id in room_ids.into_iter().filter(|it| !held.contains(*it)) {
                self.check(room_id).await?;
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        if lock(&self.context.sweep).finish(&pass, now) {
            self.context.metrics.swept(now);
            tracing::info!(kind = ?pass.kind, "all rooms were compared");
        }
        Ok(())
    }
}

/// Groups small rooms, so that each batch has at most [`MAX_EVENTS`] events; larger rooms are read in
/// parts.
fn batches(rooms: impl Iterator<Item = RoomSize>) -> VecDeque<Bytes> {
    let mut batches = VecDeque::new();
    let (mut small, mut sum) = (Vec::new(), 0_u64);
    for RoomSize { room_id, events } in rooms.filter(|it| it.events > 0) {
        if events > MAX_EVENTS {
            batches.push_back(Bytes::Part { room_id, after: i64::MIN });
            continue;
        }
        if sum.saturating_add(events) > MAX_EVENTS {
            batches.push_back(Bytes::Rooms(std::mem::take(&mut small)));
            sum = 0;
        }
        small.push(room_id);
        sum = sum.saturating_add(events);
    }
    if !small.is_empty() {
        batches.push_back(Bytes::Rooms(small));
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_rooms_are_read_together() {
        let sizes = [("!a", 300), ("!b", 200), ("!c", 0), ("!d", 1), ("!large", 501), ("!e", 2)];
        let sizes = sizes.map(|(id, events)| RoomSize { room_id: id.to_owned(), events });
        let batches = batches(sizes.into_iter());
        let names: Vec<String> = batches
            .iter()
            .map(|it| match it {
                Bytes::Rooms(rooms) => rooms.join(" "),
                Bytes::Part { room_id, after } => format!("{room_id} after {after}"),
            })
            .collect();
        assert_eq!(names, ["!a !b", &format!("!large after {}", i64::MIN), "!d !e"]);
    }
}

//! The tick: reads everything that is new or has changed, and sends it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::Instant;

use super::{
    Context,
    cursor::Cursor,
    late::{self, Late, LookAgain},
    lock,
    rooms::RoomCounts,
    send,
    small::ToldTables,
    window::{Sample, Snapshot, Taken, Window},
};
use crate::{
    database::{
        Session,
        new_rows::{self, ChangedEvent, NewRows, WindowStarts},
        positions::{self, BACKFILL, EVENTS, Moment, UN_PARTIAL_STATED},
        rows,
        small_tables::{self, SmallTables},
    },
    history::append::SendResult,
    metrics::{RoomState, StreamLabels},
    proto::v1::{RefusalReason, Replace},
};

/// How often the small tables are compared, if nothing says that they have changed.
const SMALL_TABLES_INTERVAL: Duration = Duration::from_secs(3);
/// Number of events that are read and sent at a time.
const CHUNK: usize = 1_000;
/// At the first start, events up to this many numbers back are read again by the first tick: they may
/// be under way while the first rooms are read.
const UNDER_WAY: i64 = 10_000;

/// Follows the streams of Synapse.
pub(crate) struct Tail {
    session: Session,
    started: Instant,
    events: Stream,
    /// The stream orderings of fetched events, negated: ascending as those of the other streams.
    backfill: Stream,
    un_partial_stated: Stream,
    ex_outliers: Taken,
    backfilled_ex_outliers: Taken,
    late: Late,
    told: ToldTables,
    /// The positions of writers up to which everything was taken, for metrics.
    done: BTreeMap<StreamLabels, i64>,
    small_tables_read: Option<Instant>,
    room_count: usize,
}

/// A stream: the window that is read at each tick, and what was taken of it.
#[derive(Default)]
struct Stream {
    window: Window,
    taken: Taken,
}

/// What a tick has read, before it reads the events themselves.
struct Seen {
    moment: Moment,
    new: NewRows,
    again: LookAgain,
    partial_rooms: BTreeSet<String>,
    small_tables: Option<SmallTables>,
}

/// What a tick has taken of the streams.
struct Fresh {
    events: Vec<i64>,
    backfill: Vec<i64>,
    changed: Vec<ChangedEvent>,
}

impl Stream {
    fn above(low: i64) -> Self {
        Self { window: Window::above(low), taken: Taken::default() }
    }
}

impl Tail {
    /// Continues from a cursor, which gets its places at the first start.
    ///
    /// # Errors
    /// When the database or the history service fails.
    pub(crate) async fn new(
        context: &Context,
        mut session: Session,
        cursor: &mut Cursor,
    ) -> anyhow::Result<Self> {
        let transaction = session.begin().await?;
        let moment = positions::moment(&transaction).await?;
        if cursor.began_ms == 0 {
            begin_at(cursor, &moment);
        }
        let late = Late::new(cursor.late.clone());
        if let Some(absence) = late.absence(&transaction).await? {
            lock(&context.sweep).owe(absence.description());
        }
        transaction.commit().await?;
        let mut tail = Self {
            session,
            started: Instant::now(),
            events: Stream::default(),
            backfill: Stream::default(),
            un_partial_stated: Stream::default(),
            ex_outliers: Taken::default(),
            backfilled_ex_outliers: Taken::default(),
            late,
            told: ToldTables::read(context).await?,
            done: BTreeMap::new(),
            small_tables_read: None,
            room_count: 0,
        };
        tail.open_windows(cursor);
        Ok(tail)
    }

    fn open_windows(&mut self, cursor: &Cursor) {
        self.events = Stream::above(cursor.events);
        self.backfill = Stream::above(cursor.backfill.saturating_neg());
        self.un_partial_stated = Stream::above(cursor.un_partial_stated);
        self.ex_outliers = Taken::default();
        self.backfilled_ex_outliers = Taken::default();
    }

    /// Reads everything that is visible, sends it, and waits until it is acknowledged. Then the cursor
    /// says where the next start may continue.
    ///
    /// # Errors
    /// When the database or the history service fails. Then the cursor must not be stored.
    pub(crate) async fn tick(
        &mut self,
        context: &Context,
        cursor: &mut Cursor,
    ) -> anyhow::Result<()> {
        let _writing = context.writing.lock().await;
        let mut seen = self.look(context).await.context("cannot read what is new")?;
        if let Some(back) = cursor.note_positions(&seen.moment.positions) {
            let (stream, writer) = (back.stream.as_str(), back.writer.as_str());
            tracing::error!(stream, writer, "the database went back to an earlier time");
            lock(&context.sweep).owe("the database went back to an earlier time");
            begin_at(cursor, &seen.moment);
            self.open_windows(cursor);
            self.late = Late::new(None);
            seen = self.look(context).await.context("cannot read what is new")?;
        }
        let positions = labelled(&seen.moment);
        context.metrics.positions(&positions, &self.done);
        lock(&context.rooms).set_partial(std::mem::take(&mut seen.partial_rooms));
        if let Some(tables) = seen.small_tables.take() {
            self.room_count = usize::try_from(tables.room_count).unwrap_or(usize::MAX);
            self.told.equalise(context, tables).await?;
            self.small_tables_read = Some(Instant::now());
        }
        let fresh = self.fresh(&seen.new);
        let conflicts = self.send_new(context, &fresh).await.context("cannot take new events")?;
        let changed = fresh.changed.iter().map(|it| it.event_id.clone());
        for event_id in changed.chain(conflicts) {
            seen.again.events.entry(event_id).or_default();
        }
        late::mend(context, &mut self.session, &seen.again)
            .await
            .context("cannot take late changes")?;
        note_rooms(context, &seen.again);
        context.tell().await?;
        self.acknowledge(&seen, fresh, cursor);
        context.metrics.positions(&positions, &positions);
        self.done = positions;
        count_rooms(context, self.room_count);
        Ok(())
    }

    /// Reads ids and numbers, all of one moment.
    async fn look(&mut self, context: &Context) -> Result<Seen, tokio_postgres::Error> {
        let began = Instant::now();
        let transaction = self.session.begin().await?;
        let starts = WindowStarts {
            events: self.events.window.low(),
            backfill: self.backfill.window.low().saturating_neg(),
            un_partial_stated: self.un_partial_stated.window.low(),
        };
        let moment = positions::moment(&transaction).await?;
        let new = new_rows::read(&transaction, starts).await?;
        let again = self.late.read(&transaction).await?;
        let partial_rooms = small_tables::partial_rooms(&transaction).await?;
        let is_due =
            self.small_tables_read.is_none_or(|last| last.elapsed() >= SMALL_TABLES_INTERVAL);
        let small_tables = if is_due || again.small_tables {
            Some(small_tables::read(&transaction).await?)
        } else {
            None
        };
        transaction.commit().await?;
        context.metrics.query("tick", began.elapsed());
        Ok(Seen { moment, new, again, partial_rooms, small_tables })
    }

    /// Of what is visible, what was not taken before.
    fn fresh(&self, new: &NewRows) -> Fresh {
        let backfill = new.backfill.iter().map(|it| it.saturating_neg());
        let numbers = |of: &[ChangedEvent]| of.iter().map(|it| it.number).collect::<Vec<_>>();
        let ex_outliers = numbers(&new.ex_outliers);
        let (up, down): (Vec<_>, Vec<_>) = ex_outliers.into_iter().partition(|it| *it > 0);
        let down = down.into_iter().map(i64::saturating_neg);
        let up: BTreeSet<i64> = self.ex_outliers.fresh(up).into_iter().collect();
        let down = self.backfilled_ex_outliers.fresh(down).into_iter();
        let down: BTreeSet<i64> = down.map(i64::saturating_neg).collect();
        let un_partial = self.un_partial_stated.taken.fresh(numbers(&new.un_partial_stated));
        let un_partial: BTreeSet<i64> = un_partial.into_iter().collect();
        let is_fresh = |it: &&ChangedEvent| up.contains(&it.number) || down.contains(&it.number);
        let changed = new
            .ex_outliers
            .iter()
            .filter(is_fresh)
            .chain(new.un_partial_stated.iter().filter(|it| un_partial.contains(&it.number)));
        Fresh {
            events: self.events.taken.fresh(new.events.iter().copied()),
            backfill: self.backfill.taken.fresh(backfill),
            changed: changed.cloned().collect(),
        }
    }

    /// Sends new events. Returns those that are held otherwise.
    async fn send_new(
        &mut self,
        context: &Context,
        fresh: &Fresh,
    ) -> anyhow::Result<BTreeSet<String>> {
        let backfill = fresh.backfill.iter().map(|it| it.saturating_neg());
        let mut orderings: Vec<i64> = backfill.chain(fresh.events.iter().copied()).collect();
        orderings.sort_unstable();
        let mut conflicts = BTreeSet::new();
        for chunk in orderings.chunks(CHUNK) {
            let transaction = self.session.begin().await?;
            let mut rows = rows::by_ordering(&transaction, chunk).await?;
            // They are copied when Synapse knows the full state of their room.
            rows.retain(|row| !lock(&context.rooms).is_partial(&row.room_id));
            let to_send = send::with_states(context, &transaction, rows).await?;
            transaction.commit().await?;
            for sent in send::send(context, to_send, Replace::Changed).await? {
                let SendResult::Refused(why) = sent.result else { continue };
                if why.reason == RefusalReason::Conflict {
                    conflicts.insert(sent.event_id);
                } else if send::is_about_room(why.reason) {
                    lock(&context.rooms).set_differing(&sent.room_id, true);
                }
            }
        }
        Ok(conflicts)
    }

    /// Everything that was seen is acknowledged.
    fn acknowledge(&mut self, seen: &Seen, fresh: Fresh, cursor: &mut Cursor) {
        self.late.acknowledge();
        let at = self.started.elapsed();
        let Moment { oldest_transaction, next_transaction, .. } = seen.moment;
        let snapshot = Snapshot { oldest: oldest_transaction, next: next_transaction };
        let sample = |stream: &str, visible: Option<i64>| {
            let position = seen.moment.farthest(stream).saturating_abs();
            let highest = visible.map_or(0, i64::saturating_abs).max(position);
            Sample { at, highest, snapshot }
        };
        let new = &seen.new;
        let changed = |of: &[ChangedEvent]| of.iter().map(|it| it.number).max();
        self.events.window.note(sample(EVENTS, new.events.iter().copied().max()));
        self.backfill.window.note(sample(BACKFILL, new.backfill.iter().copied().min()));
        let un_partial = sample(UN_PARTIAL_STATED, changed(&new.un_partial_stated));
        self.un_partial_stated.window.note(un_partial);
        self.events.taken.note(fresh.events, &self.events.window);
        self.backfill.taken.note(fresh.backfill, &self.backfill.window);
        let un_partial = new.un_partial_stated.iter().map(|it| it.number);
        self.un_partial_stated.taken.note(un_partial, &self.un_partial_stated.window);
        let ex_outliers = new.ex_outliers.iter().map(|it| it.number);
        let (up, down): (Vec<_>, Vec<_>) = ex_outliers.partition(|it| *it > 0);
        self.ex_outliers.note(up, &self.events.window);
        let down = down.into_iter().map(i64::saturating_neg);
        self.backfilled_ex_outliers.note(down, &self.backfill.window);
        cursor.events = self.events.window.low();
        cursor.backfill = self.backfill.window.low().saturating_neg();
        cursor.un_partial_stated = self.un_partial_stated.window.low();
        cursor.late = self.late.cursor();
    }
}

/// The positions with the labels of metrics.
fn labelled(moment: &Moment) -> BTreeMap<StreamLabels, i64> {
    let positions = moment.positions.iter().filter_map(|position| {
        let names = [EVENTS, BACKFILL, UN_PARTIAL_STATED];
        let stream = names.into_iter().find(|it| *it == position.stream)?;
        Some((StreamLabels { stream, instance: position.writer.clone() }, position.number))
    });
    positions.collect()
}

fn count_rooms(context: &Context, all: usize) {
    let RoomCounts { importing, partial, not_served } = lock(&context.rooms).counts();
    let others = importing + partial + not_served;
    context.metrics.rooms(RoomState::Complete, all.saturating_sub(others));
    context.metrics.rooms(RoomState::Importing, importing);
    context.metrics.rooms(RoomState::Partial, partial);
    context.metrics.rooms(RoomState::NotServed, not_served);
}

/// Sets the places of a cursor to now, with a margin for what is under way.
pub(super) fn begin_at(cursor: &mut Cursor, moment: &Moment) {
    cursor.began_ms = moment.now_ms;
    cursor.positions = BTreeMap::new();
    cursor.note_positions(&moment.positions);
    cursor.events = moment.farthest(EVENTS).saturating_sub(UNDER_WAY).max(0);
    cursor.backfill = moment.farthest(BACKFILL).saturating_add(UNDER_WAY).min(0);
    cursor.un_partial_stated = moment.farthest(UN_PARTIAL_STATED).saturating_sub(UNDER_WAY).max(0);
}

/// Rooms that were deleted are copied again, and rooms that have changed while they are copied are
/// compared afterwards.
fn note_rooms(context: &Context, again: &LookAgain) {
    let import_again = std::mem::take(&mut *lock(&context.import_again));
    let mut rooms = lock(&context.rooms);
    for room_id in &import_again {
        rooms.owe(room_id);
    }
    for room_id in again.rooms.keys() {
        if rooms.owed().contains(room_id) {
            rooms.owe(room_id);
        }
    }
    drop(rooms);
    context.work.notify_one();
}

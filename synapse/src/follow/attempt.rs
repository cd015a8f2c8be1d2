//! One attempt to follow: it ends with the first error, and the next one begins from the cursor.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    Context, Start, cursor::Cursor, import, lock, rooms::Rooms, send::StateReader, server_keys,
    sweep, tail::Tail,
};
use crate::{
    check::{self, Unfollowable},
    database::{Session, positions, room_sizes},
    history::{
        History,
        feed::{Feed, Started},
        message, rooms as history_rooms,
    },
    metrics::Metrics,
    proto::v1::{GetCursorRequest, ListRoomsNotServedRequest, NotServedReason, PutCursorRequest},
};

/// The shortest time between two ticks, also if a request waits.
const MIN_INTERVAL: Duration = Duration::from_millis(20);
/// How often the cursor is stored. What was done since is done again after a restart, and changes
/// nothing.
const CURSOR_INTERVAL: Duration = Duration::from_secs(1);
/// The largest page of a list.
const PAGE_SIZE: u32 = 10_000;

/// An attempt to follow.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    /// What the follower is started with.
    pub(super) start: &'a Start,
    /// The metrics.
    pub(super) metrics: &'a Metrics,
}

/// The cursor, and when it was stored last.
struct StoredCursor {
    cursor: Cursor,
    stored: Vec<u8>,
    at: Instant,
}

impl Attempt<'_> {
    /// Follows until something fails.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let databases = &self.start.databases;
        check::require(databases).await?;
        self.metrics.schema_checked();
        let mut session = databases.main.connect().await?;
        let connection = self.start.history.connect().await?;
        let name = &self.start.flags.feeder_name;
        let Started { feed, lease_id } = Feed::start(&connection, name).await?;
        let history = connection.with_lease(&lease_id)?;
        let mut cursor = self.cursor(&mut session, &history).await?;
        let context = Arc::new(self.context(history, &cursor).await?);
        let held = held_rooms(&context.history).await?;
        self.begin_copies(&context, &mut session, &mut cursor).await?;
        let tail = Tail::new(&context, session, &mut cursor.cursor).await?;
        tracing::info!("following");
        let mut tasks = JoinSet::new();
        tasks.spawn(import::run(Arc::clone(&context), held));
        let ticking = Ticking { attempt: self, context: &context, feed, tail, cursor };
        tokio::select! {
            ended = ticking.run() => ended,
            ended = sweep::run(&context) => ended.context("a sweep failed"),
            ended = server_keys::run(&context) => ended.context("cannot pass keys on"),
            ended = tasks.join_next() => match ended {
                Some(ended) => ended.context("a task failed")?.context("a task ended"),
                None => anyhow::bail!("no task is left"),
            },
        }
    }

    /// Reads the cursor, and checks that it belongs to this database.
    async fn cursor(
        self,
        session: &mut Session,
        history: &History,
    ) -> anyhow::Result<StoredCursor> {
        let feeder_name = self.start.flags.feeder_name.clone();
        let request = GetCursorRequest { feeder_name };
        let stored = message(history.feeder.clone().get_cursor(request).await)?.cursor;
        let cursor = Cursor::parse(&stored).map_err(|it| Unfollowable(format!("{it:#}")))?;
        let transaction = session.begin().await?;
        let database = positions::identity(&transaction).await?;
        transaction.commit().await?;
        let cursor = match cursor {
            None => {
                tracing::info!("this is the first start: all rooms are copied");
                Cursor::new(database)
            }
            Some(cursor) if cursor.database == database => cursor,
            Some(mut cursor) if self.start.flags.accept_other_database => {
                // It gets its places anew from this database.
                cursor.database = database;
                cursor.began_ms = 0;
                cursor.late = None;
                cursor.sweep.owe("the database is another one than before");
                cursor
            }
            Some(cursor) => {
                let text = format!(
                    "the database is another one ({database}) than the one that was followed before \
                     ({}): check --database. If Synapse's database was moved or restored, start once \
                     with --accept-other-database; all rooms are then compared before any is served",
                    cursor.database
                );
                return Err(Unfollowable(text).into());
            }
        };
        Ok(StoredCursor { cursor, stored: stored.to_vec(), at: Instant::now() })
    }

    async fn context(self, history: History, cursor: &StoredCursor) -> anyhow::Result<Context> {
        let told = rooms_not_served(&history).await?;
        let states = StateReader::new(self.start.databases.state.clone());
        Ok(Context {
            databases: self.start.databases.clone(),
            history,
            flags: self.start.flags.clone(),
            metrics: self.metrics.clone(),
            sweep: Mutex::new(cursor.cursor.sweep.clone()),
            writing: tokio::sync::Mutex::default(),
            import_again: Mutex::default(),
            rooms: Mutex::new(Rooms::new(told)),
            telling: tokio::sync::Mutex::default(),
            states: tokio::sync::Mutex::new(states),
            work: Notify::new(),
        })
    }

    /// At the first start, marks all rooms as not served until they are copied. Then those that are
    /// marked are the ones to copy.
    async fn begin_copies(
        self,
        context: &Context,
        session: &mut Session,
        cursor: &mut StoredCursor,
    ) -> anyhow::Result<()> {
        let room_ids: Vec<String> = if cursor.cursor.rooms_marked {
            lock(&context.rooms).owed().iter().cloned().collect()
        } else {
            let transaction = session.begin().await?;
            let all = room_sizes::all(&transaction).await?;
            // Before the first row is read: a tick takes what is written from now on.
            if cursor.cursor.began_ms == 0 {
                let moment = positions::moment(&transaction).await?;
                super::tail::begin_at(&mut cursor.cursor, &moment);
            }
            transaction.commit().await?;
            all
        };
        let rooms = import::in_order(session, &room_ids).await?;
        let events: u64 = rooms.iter().map(|it| it.events).sum();
        if !rooms.is_empty() {
            tracing::info!(rooms = rooms.len(), events, "copying rooms");
        }
        lock(&context.rooms).copy_first(rooms);
        context.tell().await?;
        if !cursor.cursor.rooms_marked {
            cursor.cursor.rooms_marked = true;
            self.store(context, cursor).await?;
        }
        Ok(())
    }

    /// Stores the cursor, if it has changed.
    async fn store(self, context: &Context, cursor: &mut StoredCursor) -> anyhow::Result<()> {
        cursor.at = Instant::now();
        cursor.cursor.sweep = lock(&context.sweep).clone();
        let bytes = cursor.cursor.to_bytes()?;
        if bytes == cursor.stored {
            return Ok(());
        }
        let feeder_name = self.start.flags.feeder_name.clone();
        let request = PutCursorRequest { feeder_name, cursor: bytes.clone().into() };
        message(context.history.feeder.clone().put_cursor(request).await)?;
        cursor.stored = bytes;
        Ok(())
    }
}

/// Ticks, one after the other.
struct Ticking<'a> {
    attempt: Attempt<'a>,
    context: &'a Context,
    feed: Feed,
    tail: Tail,
    cursor: StoredCursor,
}

impl Ticking<'_> {
    async fn run(mut self) -> anyhow::Result<()> {
        let poll = Duration::from_millis(self.context.flags.poll);
        loop {
            let began = Instant::now();
            self.feed.tick_begun().await?;
            self.tail.tick(self.context, &mut self.cursor.cursor).await?;
            // A sweep that is owed is stored at once: a restart must not forget it.
            let is_owed_anew = lock(&self.context.sweep).owed != self.cursor.cursor.sweep.owed;
            if is_owed_anew || self.cursor.at.elapsed() >= CURSOR_INTERVAL {
                self.attempt.store(self.context, &mut self.cursor).await?;
            }
            let not_ready = lock(&self.context.sweep).owed.clone();
            self.feed.tick_ended(not_ready.as_deref()).await?;
            self.context.metrics.tick_ended(began, not_ready);
            tokio::select! {
                () = sleep_until(began + poll) => {}
                () = self.feed.tick_wanted() => sleep_until(began + MIN_INTERVAL).await,
            }
        }
    }
}

/// Why rooms are not served, as the history service knows it.
async fn rooms_not_served(history: &History) -> anyhow::Result<BTreeMap<String, NotServedReason>> {
    let mut told = BTreeMap::new();
    let mut page_token = String::new();
    loop {
        let request = ListRoomsNotServedRequest { page_size: PAGE_SIZE, page_token };
        let page = message(history.admin.clone().list_rooms_not_served(request).await)?;
        told.extend(page.rooms.into_iter().map(|it| {
            let reason = it.not_served_reason();
            (it.room_id, reason)
        }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(told);
        }
    }
}

/// The rooms that the history service holds.
async fn held_rooms(history: &History) -> anyhow::Result<BTreeSet<String>> {
    let mut held = BTreeSet::new();
    let mut page_token = String::new();
    loop {
        let page = history_rooms::held(history, page_token).await?;
        held.extend(page.room_ids);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(held);
        }
    }
}

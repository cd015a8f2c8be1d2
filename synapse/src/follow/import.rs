//! Copies whole rooms: those that are there at the first start, and those that are owed later.
//!
//! ```text
//!  reader: rooms ──► pages of events ──(channel, one page)──► sender: AppendEvents ──► served
//! ```
//!
//! Events are sent without replacing anything, because a tick may have sent a later version of them
//! meanwhile. Those that conflict are read again.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{sync::mpsc, time::sleep};
use tokio_postgres::error::SqlState;
use tonic::Code;

use super::{
    Context,
    late::{self, LookAgain},
    lock,
    progress::Progress,
    reconcile::{Look, Reason, Reconciled, reconcile},
    rooms::{RoomSize, Work},
    send::{self, StateReader, ToSend},
};
use crate::{
    database::{
        Session, TRANSACTION_TIMEOUT, room_sizes,
        rows::{self, EventRow, RoomPart},
    },
    history::{append::SendResult, message},
    proto::v1::{GetRoomRequest, RefusalReason, Replace},
};

/// The largest number of events of a page.
const MAX_PAGE_EVENTS: u32 = 20_000;
/// A page that takes too long is read again in half, down to this number of events.
const MIN_PAGE_EVENTS: u32 = 100;
/// The number of ids of state events after which a page is passed on.
const MAX_PAGE_ENTRIES: usize = 200_000;
/// Number of rooms whose sizes are read at a time.
const SIZES_CHUNK: usize = 200;

/// A page of events, and the rooms that are complete with it.
struct Loaded {
    events: Vec<ToSend>,
    complete: Vec<String>,
}

/// Rows of a page, and which of them need their state.
struct WithMissing {
    rows: Vec<EventRow>,
    missing: HashSet<String>,
}

/// Reads the sizes of rooms, and puts the rooms into the order in which they are copied: those that were
/// active last come first.
///
/// # Errors
/// When the database fails.
pub(crate) async fn in_order(
    session: &mut Session,
    room_ids: &[String],
) -> anyhow::Result<Vec<RoomSize>> {
    let mut sized = Vec::new();
    for chunk in room_ids.chunks(SIZES_CHUNK) {
        let transaction = session.begin().await?;
        sized.extend(room_sizes::sizes(&transaction, chunk).await.context("sizes of rooms")?);
        transaction.commit().await?;
    }
    sized.sort_by_key(|it| std::cmp::Reverse(it.last));
    let known: BTreeSet<&str> = sized.iter().map(|it| it.room_id.as_str()).collect();
    let empty = room_ids.iter().filter(|it| !known.contains(it.as_str()));
    let empty: Vec<RoomSize> =
        empty.map(|it| RoomSize { room_id: it.clone(), events: 0 }).collect();
    let sized = sized.into_iter();
    let sized = sized.map(|it| RoomSize { room_id: it.room_id, events: it.events });
    Ok(sized.chain(empty).collect())
}

/// Makes all rooms equal that are owed, for as long as the follower follows. `held` are the rooms that
/// the history service held at the start: after they are copied they are compared too.
///
/// # Errors
/// When the database or the history service fails.
pub(crate) async fn run(context: Arc<Context>, held: BTreeSet<String>) -> anyhow::Result<()> {
    let (to_sender, pages) = mpsc::channel(1);
    let session = context.databases.main.connect_for(TRANSACTION_TIMEOUT).await?;
    let states = StateReader::new(context.databases.state.clone());
    let reader =
        Reader { context: &context, session, states, to_sender, page_events: MAX_PAGE_EVENTS };
    let sender =
        Sender { context: &context, held, unsupported: BTreeSet::new(), progress: Progress::new() };
    tokio::try_join!(reader.run(), sender.run(pages))?;
    Ok(())
}

/// Reads rooms page by page.
struct Reader<'a> {
    context: &'a Context,
    session: Session,
    /// Its own, so that a tick does not wait for the states of a page.
    states: StateReader,
    to_sender: mpsc::Sender<Loaded>,
    /// The number of events of the next page.
    page_events: u32,
}

impl Reader<'_> {
    async fn run(mut self) -> anyhow::Result<()> {
        loop {
            let work = lock(&self.context.rooms).take(MAX_PAGE_EVENTS.into());
            match work {
                None => self.context.work.notified().await,
                Some(Work::Equalise(room_id)) => self.equalise(room_id).await?,
                Some(Work::Copy(rooms)) => self.copy(rooms).await?,
            }
        }
    }

    async fn equalise(&mut self, room_id: String) -> anyhow::Result<()> {
        if lock(&self.context.rooms).is_partial(&room_id) {
            // It becomes owed again when its state is known.
            lock(&self.context.rooms).done(&room_id);
            return self.context.tell().await;
        }
        if !is_held(self.context, &room_id).await? {
            return self.copy_room(room_id).await;
        }
        let writing = self.context.writing.lock().await;
        let mut session = self.context.databases.main.connect().await?;
        let look = Look::late(&room_id, Reason::Compare);
        let ended = reconcile(self.context, &mut session, look).await?;
        drop((session, writing));
        {
            let mut rooms = lock(&self.context.rooms);
            rooms.set_differing(&room_id, ended == Reconciled::Differs);
            let import_again = std::mem::take(&mut *lock(&self.context.import_again));
            for room_id in import_again {
                rooms.owe(&room_id);
            }
            rooms.done(&room_id);
        }
        self.context.tell().await
    }

    async fn copy(&mut self, rooms: Vec<RoomSize>) -> anyhow::Result<()> {
        let mut ids = Vec::new();
        for room in rooms {
            if lock(&self.context.rooms).is_partial(&room.room_id) {
                self.pass(Vec::new(), vec![room.room_id]).await?;
            } else if room.events > MAX_PAGE_EVENTS.into() {
                self.copy_room(room.room_id).await?;
            } else {
                ids.push(room.room_id);
            }
        }
        match self.read_rooms(&ids).await {
            Ok(Some(rows)) => return self.pass_with_states(rows, ids).await,
            Ok(None) => {}
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
        // They are too large, or PostgreSQL is too slow, to be read together.
        for room_id in ids {
            self.copy_room(room_id).await?;
        }
        Ok(())
    }

    /// Reads rooms together. `None` if they are too large.
    async fn read_rooms(&mut self, room_ids: &[String]) -> anyhow::Result<Option<WithMissing>> {
        let transaction = self.session.begin().await?;
        let page = rows::page_of_rooms(&transaction, room_ids).await?;
        if !page.is_complete {
            return Ok(None);
        }
        let missing = send::missing(&transaction, &page.events).await?;
        transaction.commit().await?;
        Ok(Some(WithMissing { rows: page.events, missing }))
    }

    /// Reads a part of a room.
    async fn read_part(&mut self, part: RoomPart<'_>) -> anyhow::Result<WithMissing> {
        let transaction = self.session.begin().await?;
        let rows = rows::of_room_part(&transaction, part).await?;
        let missing = send::missing(&transaction, &rows).await?;
        transaction.commit().await?;
        Ok(WithMissing { rows, missing })
    }

    /// Reads a room in parts.
    async fn copy_room(&mut self, room_id: String) -> anyhow::Result<()> {
        let mut after = i64::MIN;
        loop {
            let limit = self.page_events;
            let part = RoomPart { room_id: &room_id, after, limit: limit.into() };
            let read = match self.read_part(part).await {
                Ok(read) => read,
                Err(error) if is_timeout(&error) && limit > MIN_PAGE_EVENTS => {
                    self.page_events = (limit / 2).max(MIN_PAGE_EVENTS);
                    tracing::info!(events = self.page_events, "PostgreSQL is slow: smaller pages");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(last) = read.rows.last() else { break };
            after = last.stream_ordering;
            self.pass_with_states(read, Vec::new()).await?;
        }
        self.pass(Vec::new(), vec![room_id]).await
    }

    /// Adds the states, outside of the transaction because that may take long, and passes the events on.
    /// Events with large states are passed on in several pages.
    async fn pass_with_states(
        &mut self,
        read: WithMissing,
        complete: Vec<String>,
    ) -> anyhow::Result<()> {
        let (mut events, mut entries) = (Vec::new(), 0_usize);
        for row in read.rows {
            let event = self.states.add_state(row, &read.missing).await?;
            entries = entries.saturating_add(event.state_after.len());
            events.push(event);
            if entries > MAX_PAGE_ENTRIES {
                self.pass(std::mem::take(&mut events), Vec::new()).await?;
                entries = 0;
            }
        }
        self.pass(events, complete).await
    }

    async fn pass(&self, events: Vec<ToSend>, complete: Vec<String>) -> anyhow::Result<()> {
        let loaded = Loaded { events, complete };
        self.to_sender.send(loaded).await.map_err(|_| anyhow::anyhow!("the sender has ended"))
    }
}

/// Sends pages, and lets rooms be served that are complete.
struct Sender<'a> {
    context: &'a Context,
    held: BTreeSet<String>,
    /// Rooms that the history service cannot hold.
    unsupported: BTreeSet<String>,
    progress: Progress,
}

impl Sender<'_> {
    async fn run(mut self, mut pages: mpsc::Receiver<Loaded>) -> anyhow::Result<()> {
        while let Some(Loaded { events, complete }) = pages.recv().await {
            let count = events.len();
            let rate = self.context.flags.import_rate;
            let milliseconds = u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(1_000);
            // The rate 0 means no limit.
            sleep(Duration::from_millis(milliseconds.checked_div(rate).unwrap_or(0))).await;
            self.send(events).await?;
            {
                let mut rooms = lock(&self.context.rooms);
                for room_id in &complete {
                    rooms.set_differing(room_id, self.unsupported.remove(room_id));
                    if self.held.remove(room_id) {
                        rooms.owe(room_id);
                    }
                    rooms.done(room_id);
                }
            }
            self.context.tell().await?;
            let left = lock(&self.context.rooms).copies_left();
            self.progress.note(count, left);
        }
        Ok(())
    }

    async fn send(&mut self, events: Vec<ToSend>) -> anyhow::Result<()> {
        let mut again = LookAgain::default();
        for sent in send::send(self.context, events, Replace::Unspecified).await? {
            let SendResult::Refused(why) = sent.result else { continue };
            if why.reason == RefusalReason::Conflict {
                again.events.insert(sent.event_id, Some(sent.room_id));
            } else if send::is_about_room(why.reason) {
                self.unsupported.insert(sent.room_id);
            }
        }
        if again.events.is_empty() {
            return Ok(());
        }
        let mut session = self.context.databases.main.connect().await?;
        let _writing = self.context.writing.lock().await;
        late::mend(self.context, &mut session, &again).await
    }
}

/// Whether the history service holds the room.
async fn is_held(context: &Context, room_id: &str) -> anyhow::Result<bool> {
    let request = GetRoomRequest { room_id: room_id.to_owned() };
    match message(context.history.history.clone().get_room(request).await) {
        Ok(_) => Ok(true),
        Err(error) if error.code == Code::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_timeout(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<tokio_postgres::Error>();
    error.and_then(tokio_postgres::Error::code) == Some(&SqlState::QUERY_CANCELED)
}

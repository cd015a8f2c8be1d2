//! Looks again at what has changed late, and makes the history service equal.

use std::collections::{BTreeMap, BTreeSet};

use super::{LookAgain, RoomSignal, SweepKind};
use crate::{
    database::{
        Session,
        rooms_state::partial_rooms,
        rows::{self, EventRow},
    },
    follow::{
        Context, lock,
        reconcile::{Look, Reason, reconcile, take_out},
        send,
    },
    history::{append::SendResult, rooms::TakeOut},
    proto::v1::{RefusalReason, Replace},
};

/// The most events that are read at once.
const MAX_EVENTS: usize = 500;

/// Mends everything that a tick looks at again, except the small tables. The caller holds
/// `context.writing`.
///
/// # Errors
/// When the database or the history service fails.
pub(crate) async fn mend(
    context: &Context,
    session: &mut Session,
    again: &LookAgain,
) -> anyhow::Result<()> {
    context.metrics.late_changes(&again.rows);
    if let Some(kind) = again.sweep_owed {
        let why = match kind {
            SweepKind::Flags => "Synapse says that any room may have been purged",
            SweepKind::Bytes => "Synapse says that any event may have changed",
        };
        lock(&context.sweep).owe(why);
    }
    let mut conflicts = BTreeSet::new();
    let events: Vec<(&String, &Option<String>)> = again.events.iter().collect();
    for chunk in events.chunks(MAX_EVENTS) {
        let chunk = chunk.iter().map(|(id, room)| ((*id).clone(), (*room).clone())).collect();
        conflicts.extend(look_again(context, session, chunk).await?);
    }
    for (room_id, signal) in &again.rooms {
        match signal {
            RoomSignal::Deleted => {
                let look = Look::late(room_id, Reason::Deleted);
                let _ended = reconcile(context, session, look).await?;
            }
            // The events that were cut were mended one by one above. The comparison of a large room
            // takes seconds, and nothing waits for it.
            RoomSignal::Purged => lock(&context.sweep).compare_soon(room_id),
        }
    }
    for room_id in conflicts {
        let look = Look::late(&room_id, Reason::Conflict);
        let _ended = reconcile(context, session, look).await?;
    }
    Ok(())
}

/// Reads events again, and makes ours equal. Returns the rooms of events that were refused because
/// they conflict with what is held.
async fn look_again(
    context: &Context,
    session: &mut Session,
    events: BTreeMap<String, Option<String>>,
) -> anyhow::Result<BTreeSet<String>> {
    let transaction = session.begin().await?;
    let ids: Vec<String> = events.keys().cloned().collect();
    let mut found = rows::by_id(&transaction, &ids).await?;
    let rooms: BTreeSet<&str> = found.iter().map(|it| it.room_id.as_str()).collect();
    let partial = partial_rooms(&transaction, &rooms).await?;
    // They are copied when Synapse knows their full state.
    found.retain(|it| !partial.contains(&it.room_id));
    let (cut, gone) = taken_out(&events, &found);
    let to_send = send::with_states(context, &transaction, found).await?;
    transaction.commit().await?;
    for (room_id, event_ids) in cut {
        take_out(context, &room_id, TakeOut { event_ids, keep_as_outliers: true }).await?;
    }
    for (room_id, event_ids) in gone {
        take_out(context, &room_id, TakeOut { event_ids, keep_as_outliers: false }).await?;
    }
    let sent = send::send(context, to_send, Replace::Changed).await?;
    let conflict = sent.into_iter().filter_map(|it| match it.result {
        SendResult::Refused(why) if why.reason == RefusalReason::Conflict => Some(it.room_id),
        _ => None,
    });
    Ok(conflict.collect())
}

/// Events by their rooms.
type ByRoom = BTreeMap<String, Vec<String>>;

/// The events to make outliers, and those to remove. Events that are gone are left out if their room is
/// not known: Synapse names it with the deletion.
fn taken_out(events: &BTreeMap<String, Option<String>>, found: &[EventRow]) -> (ByRoom, ByRoom) {
    let (mut cut, mut gone) = (ByRoom::new(), ByRoom::new());
    for row in found.iter().filter(|it| it.outlier) {
        cut.entry(row.room_id.clone()).or_default().push(row.event_id.clone());
    }
    let held: BTreeSet<&str> = found.iter().map(|it| it.event_id.as_str()).collect();
    for (event_id, room_id) in events.iter().filter(|(id, _)| !held.contains(id.as_str())) {
        if let Some(room_id) = room_id {
            gone.entry(room_id.clone()).or_default().push(event_id.clone());
        }
    }
    (cut, gone)
}

//! The command `backscroll export`: writes a room in the room format, read with `ListEvents`.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::value::RawValue;

use super::{
    ServerArgs,
    client::{Channel, connect, for_each_page, message},
    out, progress_target,
};
use crate::{
    proto::v1::{self as pb, history_service_client::HistoryServiceClient},
    room_format::{Header, Line, write_header, write_line},
};

/// Events on one page.
const PAGE_SIZE: u32 = 500;
/// Ids on one page: as many as the service allows.
pub(super) const MAX_PAGE_OF_IDS: u32 = 10_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The output can be imported again, into this or another store:
  backscroll export '!room:example.org' > room.ndjson")]
pub(super) struct ExportArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// The id of the room.
    #[arg(value_name = "ROOM_ID")]
    room_id: String,
}

pub(super) async fn run(args: ExportArgs) -> anyhow::Result<()> {
    let ExportArgs { server, room_id } = args;
    let mut history = connect(&server).await?.history;
    let room = message(history.get_room(pb::GetRoomRequest { room_id }).await)?;
    let mut out = out::text();
    if !room.current_state_known && !room.forward_extremities.is_empty() {
        // This is no error, so the exit code does not show it: everything that is held is written.
        drop(writeln!(
            io::stderr(),
            "the current state of this room is not known, so the file does not contain it; these \
             events need `state_after`: {}",
            room.state_needed_event_ids.join(" ")
        ));
    }
    let target =
        if io::stdout().is_terminal() { ProgressDrawTarget::hidden() } else { progress_target() };
    let progress = ProgressBar::with_draw_target(Some(room.event_count), target);
    write_room(&mut history, room, &mut out, &progress).await?;
    out.flush()?;
    out::sync()?;
    progress.finish_and_clear();
    Ok(())
}

/// Writes a room as it is at one moment, although events may be appended meanwhile. Returns the
/// number of events.
pub(super) async fn write_room(
    history: &mut HistoryServiceClient<Channel>,
    room: pb::GetRoomResponse,
    out: &mut impl io::Write,
    progress: &ProgressBar,
) -> anyhow::Result<u64> {
    let pb::GetRoomResponse { room_id, room_version, appended_count, .. } = room;
    let erased_users = erased_members(history, &room_id).await?;
    write_header(&mut *out, &Header { room_id: room_id.clone(), room_version, erased_users })?;
    let mut events = 0;
    let mut next_arrival = 0;
    for_each_page(async |page_token| {
        let request = pb::ListEventsRequest {
            room_id: room_id.clone(),
            page_size: PAGE_SIZE,
            page_token,
            max_append_number: appended_count,
        };
        let page = message(history.list_events(request).await)?;
        for event in page.events {
            let arrival = event.arrival;
            let mut line = line(history, &room_id, event).await?;
            line.arrival = Some(arrival).filter(|it| *it != next_arrival);
            next_arrival = arrival.saturating_add(1);
            write_line(&mut *out, &line)?;
            progress.inc(1);
            events += 1;
        }
        Ok(page.next_page_token)
    })
    .await?;
    Ok(events)
}

/// The members of a room who requested erasure.
async fn erased_members(
    history: &mut HistoryServiceClient<Channel>,
    room_id: &str,
) -> anyhow::Result<Vec<String>> {
    let mut users = Vec::new();
    for_each_page(async |page_token| {
        let page_size = MAX_PAGE_OF_IDS;
        let room_id = room_id.to_owned();
        let request = pb::ListErasedMembersRequest { room_id, page_size, page_token };
        let page = message(history.list_erased_members(request).await)?;
        users.extend(page.user_ids);
        Ok(page.next_page_token)
    })
    .await?;
    Ok(users)
}

/// The line of an event in a room file, with its whole `state_after` and without its arrival.
async fn line(
    history: &mut HistoryServiceClient<Channel>,
    room_id: &str,
    event: pb::RoomEvent,
) -> anyhow::Result<Line> {
    let verdict = event.verdict();
    let pb::RoomEvent { event_id, pdu, outlier, mut state_after, kept, .. } = event;
    let mut page_token = event.state_after_page_token;
    while !page_token.is_empty() {
        let request = pb::ListStateAfterRequest {
            room_id: room_id.to_owned(),
            event_id: event_id.clone(),
            page_size: MAX_PAGE_OF_IDS,
            page_token,
        };
        let page = message(history.list_state_after(request).await)?;
        state_after.extend(page.event_ids);
        page_token = page.next_page_token;
    }
    let pdu = String::from_utf8(pdu.into()).ok().and_then(|it| RawValue::from_string(it).ok());
    let pdu = pdu.with_context(|| format!("{event_id} is not JSON; the store may be damaged"))?;
    Ok(Line {
        event_id,
        pdu,
        outlier,
        rejected: verdict == pb::Verdict::Rejected,
        soft_failed: verdict == pb::Verdict::SoftFailed,
        arrival: None,
        state_after,
        kept: Some(kept).filter(|it| !it.is_empty()).map(RawValue::from_string).transpose()?,
    })
}

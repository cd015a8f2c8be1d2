//! `backscroll export`: a room in the room format, over `ListEvents`.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::value::RawValue;

use super::{
    ServerArgs,
    client::{Channel, connect, told},
    out, progress_target,
};
use crate::{
    proto::v1::{self as pb, history_service_client::HistoryServiceClient},
    room_format::{Header, Line, write_header, write_line},
};

/// Events asked for at once.
const PAGE: u32 = 500;
/// Ids asked for at once: the most that one page may have.
pub(super) const IDS: u32 = 10_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What comes out can be imported again, here or into another store:
  backscroll export '!room:example.org' > room.ndjson")]
pub(super) struct Args {
    #[command(flatten)]
    server: ServerArgs,

    /// The room.
    #[arg(value_name = "ROOM_ID")]
    room_id: String,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { server, room_id } = args;
    let mut history = connect(&server).await?.history;
    let request = pb::GetRoomRequest { room_id: room_id.clone() };
    let room = history.get_room(request).await.map_err(|status| told(&status))?.into_inner();
    let mut out = out::text();
    let event_count = room.event_count;
    if !room.current_state_known && !room.forward_extremities.is_empty() {
        // The exit code does not say it: what is held is written.
        drop(writeln!(
            io::stderr(),
            "the current state of this room is not known, so the file does not say it either; \
             these events need `state_after`: {}",
            room.state_needed_event_ids.join(" ")
        ));
    }
    let target =
        if io::stdout().is_terminal() { ProgressDrawTarget::hidden() } else { progress_target() };
    let progress = ProgressBar::with_draw_target(Some(event_count), target);
    write_room(&mut history, room, (&mut out, &progress)).await?;
    out.flush()?;
    out::sync()?;
    progress.finish_and_clear();
    Ok(())
}

/// Writes a room as it is at one moment, though others may write to it meanwhile.
pub(super) async fn write_room(
    history: &mut HistoryServiceClient<Channel>,
    room: pb::GetRoomResponse,
    (mut out, progress): (impl io::Write, &ProgressBar),
) -> anyhow::Result<u64> {
    let pb::GetRoomResponse { room_id, room_version, appended_count, .. } = room;
    let erased_users = erased_members(history, &room_id).await?;
    write_header(&mut out, &Header { room_id: room_id.clone(), room_version, erased_users })?;
    let (mut page_token, mut events) = (String::new(), 0);
    loop {
        let request = pb::ListEventsRequest {
            room_id: room_id.clone(),
            page_size: PAGE,
            page_token,
            max_append_number: appended_count,
        };
        let page = history.list_events(request).await.map_err(|status| told(&status))?;
        let page = page.into_inner();
        for event in page.events {
            write_line(&mut out, &line(history, &room_id, event).await?)?;
            progress.inc(1);
            events += 1;
        }
        if page.next_page_token.is_empty() {
            return Ok(events);
        }
        page_token = page.next_page_token;
    }
}

/// The users of a room who asked for erasure.
async fn erased_members(
    history: &mut HistoryServiceClient<Channel>,
    room_id: &str,
) -> anyhow::Result<Vec<String>> {
    let (mut users, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListErasedMembersRequest {
            room_id: room_id.to_owned(),
            page_size: IDS,
            page_token,
        };
        let page = history.list_erased_members(request).await.map_err(|status| told(&status))?;
        let page = page.into_inner();
        users.extend(page.user_ids);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(users);
        }
    }
}

/// An event as it stands in a file, with all of the state that came with it.
async fn line(
    history: &mut HistoryServiceClient<Channel>,
    room_id: &str,
    event: pb::RoomEvent,
) -> anyhow::Result<Line> {
    let verdict = event.verdict();
    let pb::RoomEvent { event_id, pdu, outlier, mut state_after, .. } = event;
    let mut page_token = event.state_after_page_token;
    while !page_token.is_empty() {
        let (room_id, event_id) = (room_id.to_owned(), event_id.clone());
        let request = pb::ListStateAfterRequest { room_id, event_id, page_size: IDS, page_token };
        let page = history.list_state_after(request).await.map_err(|status| told(&status))?;
        let page = page.into_inner();
        state_after.extend(page.event_ids);
        page_token = page.next_page_token;
    }
    let rejected = verdict == pb::Verdict::Rejected;
    let soft_failed = verdict == pb::Verdict::SoftFailed;
    let pdu = String::from_utf8(pdu.into()).ok().and_then(|it| RawValue::from_string(it).ok());
    let pdu = pdu.with_context(|| format!("{event_id} is not JSON; is the store damaged?"))?;
    Ok(Line { event_id, pdu, outlier, rejected, soft_failed, state_after })
}

//! The command `backscroll graph`: draws the event graph of a room, read with `ListEvents`.

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    io::Write as _,
    path::PathBuf,
};

use anyhow::{Context as _, ensure};
use indicatif::ProgressBar;

use super::{
    ServerArgs,
    client::{Channel, connect, for_each_page, message},
    out, progress_target,
};
use crate::{
    pdu::{self, Pdu, RoomVersion},
    picture::{self, DrawnEvent, MAX_EVENTS, Marks, Picture},
    proto::v1::{self as pb, history_service_client::HistoryServiceClient},
};

/// Events on one page.
const PAGE_SIZE: u32 = 500;
/// The default depth of a picture around an event, in edges.
const DEFAULT_DEPTH: usize = 12;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --svg, the graph is printed in the language of Graphviz. A picture has at most 500 events: those
appended around the given event, or the last ones.
  backscroll graph '!room:example.org' --svg room.svg
  backscroll graph '!room:example.org' --around '$event' --depth 5 | dot -Tpng > room.png")]
pub(super) struct GraphArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// The id of the room.
    #[arg(value_name = "ROOM_ID")]
    room_id: String,

    /// Draw the events around this one. By default the newest events of the room.
    #[arg(long, env = "BACKSCROLL_AROUND", value_name = "EVENT_ID")]
    around: Option<String>,

    /// Draw events up to this number of edges away, in either direction, from the event given with
    /// --around or from the forward extremities.
    #[arg(long, env = "BACKSCROLL_DEPTH", value_name = "EDGES")]
    depth: Option<usize>,

    /// Write the picture to this file, as SVG.
    #[arg(long, env = "BACKSCROLL_SVG", value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(super) async fn run(args: GraphArgs) -> anyhow::Result<()> {
    let GraphArgs { server, room_id, around, depth, svg } = args;
    let mut history = connect(&server).await?.history;
    let room = message(history.get_room(pb::GetRoomRequest { room_id }).await)?;
    let events = window(&mut history, &room, around.as_deref()).await?;
    let pb::GetRoomResponse { room_id, room_version, event_count, .. } = room;
    let extremities: BTreeSet<String> = room.forward_extremities.into_iter().collect();
    let version = RoomVersion::parse(&room_version)?;
    let drawn = |it| event(it, version, &extremities);
    let events = events.into_iter().map(drawn).collect::<anyhow::Result<Vec<DrawnEvent>>>()?;
    let events = match (&around, depth) {
        (None, None) => events,
        (None, Some(depth)) => {
            picture::near(events, &extremities.iter().cloned().collect::<Vec<_>>(), depth)
        }
        (Some(around), depth) => {
            picture::near(events, std::slice::from_ref(around), depth.unwrap_or(DEFAULT_DEPTH))
        }
    };
    let missing = room.backward_extremities.into_iter().collect();
    let picture = Picture { room_id, room_version, held: event_count, events, missing, around };
    match svg {
        None => {
            let mut out = out::text();
            out.write_all(picture::dot(&picture).as_bytes())?;
            out.flush()?;
        }
        Some(path) => fs::write(&path, picture::svg(&picture))
            .with_context(|| format!("cannot write {}", path.display()))?,
    }
    Ok(())
}

/// The events appended around a given one, or the last ones. Reads the whole room by arrival number,
/// but keeps only what is drawn.
async fn window(
    history: &mut HistoryServiceClient<Channel>,
    room: &pb::GetRoomResponse,
    around: Option<&str>,
) -> anyhow::Result<VecDeque<pb::RoomEvent>> {
    const HALF: usize = MAX_EVENTS / 2;
    let progress = ProgressBar::with_draw_target(Some(room.event_count), progress_target());
    let mut kept = VecDeque::new();
    // Number of events kept from the given one on; `None` before it is found.
    let mut after: Option<usize> = None;
    for_each_page(async |page_token| {
        let request = pb::ListEventsRequest {
            room_id: room.room_id.clone(),
            page_size: PAGE_SIZE,
            page_token,
            max_append_number: room.appended_count,
        };
        let page = message(history.list_events(request).await)?;
        for event in page.events {
            progress.inc(1);
            if around == Some(&*event.event_id) {
                after = Some(0);
            }
            if after.is_none_or(|it| it < HALF) {
                kept.push_back(event);
                after = after.map(|it| it + 1);
            }
            // Before the given event is found, half of the picture is enough.
            let max = if around.is_none() || after.is_some() { MAX_EVENTS } else { HALF };
            while kept.len() > max {
                kept.pop_front();
            }
        }
        let is_complete = after.is_some_and(|it| it >= HALF);
        Ok(if is_complete { String::new() } else { page.next_page_token })
    })
    .await?;
    progress.finish_and_clear();
    ensure!(around.is_none() || after.is_some(), "this event is not held in this room");
    Ok(kept)
}

fn event(
    event: pb::RoomEvent,
    version: RoomVersion,
    extremities: &BTreeSet<String>,
) -> anyhow::Result<DrawnEvent> {
    let rejected = event.verdict() == pb::Verdict::Rejected;
    let soft_failed = event.verdict() == pb::Verdict::SoftFailed;
    let pb::RoomEvent { event_id, pdu, arrival, outlier, redacted, unreadable, .. } = event;
    let read = pdu::Event::read(&pdu, version, &event_id)
        .with_context(|| format!("{event_id} is not an event; the store may be damaged"))?;
    let extremity = extremities.contains(&event_id);
    let prev_events = read.prev_events().iter().map(|it| it.as_str().to_owned()).collect();
    let marks = Marks { extremity, redacted, rejected, soft_failed, outlier, unreadable };
    let (event_type, state_key) = match (read.pdu(), read.state_entry()) {
        (Some(pdu), _) => (pdu.event_type(), pdu.state_key()),
        (None, Some((event_type, state_key))) => (event_type, Some(state_key)),
        (None, None) => ("", None),
    };
    Ok(DrawnEvent {
        event_type: event_type.to_owned(),
        sender: read.pdu().map_or_else(String::new, |it| it.sender().to_string()),
        state_key: state_key.map(str::to_owned),
        // The depth that an unreadable event claims is not reliable.
        depth: read.pdu().map_or(0, Pdu::depth),
        arrival,
        prev_events,
        marks,
        event_id,
    })
}

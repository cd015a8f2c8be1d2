//! `backscroll graph`: a room's event graph as a picture, over `ListEvents`.

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
    client::{Channel, connect, told},
    out, progress_target,
};
use crate::{
    pdu::{self, Pdu, RoomVersion},
    picture::{self, DrawnEvent, MAX_EVENTS, Marks, Picture},
    proto::v1::{self as pb, history_service_client::HistoryServiceClient},
};

/// Events asked for at once.
const PAGE: u32 = 500;
/// How far a picture around an event reaches when nothing is said.
const STEPS: usize = 12;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --svg, Graphviz's language goes to standard output. A picture has at most 500 events: those
that came around the one asked for, or the last ones.
  backscroll graph '!room:example.org' --svg room.svg
  backscroll graph '!room:example.org' --around '$event' --depth 5 | dot -Tpng > room.png")]
pub(super) struct Args {
    #[command(flatten)]
    server: ServerArgs,

    /// The room.
    #[arg(value_name = "ROOM_ID")]
    room_id: String,

    /// The event that the picture is about. Left out: the room's newest events.
    #[arg(long, env = "BACKSCROLL_AROUND", value_name = "EVENT_ID")]
    around: Option<String>,

    /// How many edges away events are drawn still, in either direction: from the event, or from
    /// the forward extremities.
    #[arg(long, env = "BACKSCROLL_DEPTH", value_name = "EDGES")]
    depth: Option<usize>,

    /// Draw into this file.
    #[arg(long, env = "BACKSCROLL_SVG", value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { server, room_id, around, depth, svg } = args;
    let mut history = connect(&server).await?.history;
    let request = pb::GetRoomRequest { room_id };
    let room = history.get_room(request).await.map_err(|status| told(&status))?.into_inner();
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
            picture::near(events, std::slice::from_ref(around), depth.unwrap_or(STEPS))
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

/// The events that came around the one asked for, or the last ones. Reads the room in its order of
/// arrival, and keeps no more of it than is drawn.
async fn window(
    history: &mut HistoryServiceClient<Channel>,
    room: &pb::GetRoomResponse,
    around: Option<&str>,
) -> anyhow::Result<VecDeque<pb::RoomEvent>> {
    let progress = ProgressBar::with_draw_target(Some(room.event_count), progress_target());
    let (mut kept, mut page_token) = (VecDeque::new(), String::new());
    let mut found = None;
    loop {
        let request = pb::ListEventsRequest {
            room_id: room.room_id.clone(),
            page_size: PAGE,
            page_token,
            max_append_number: room.appended_count,
        };
        let page = history.list_events(request).await.map_err(|status| told(&status))?;
        let page = page.into_inner();
        for event in page.events {
            progress.inc(1);
            if around == Some(&*event.event_id) {
                found = Some(0);
            }
            if found.is_none_or(|after| after < MAX_EVENTS / 2) {
                kept.push_back(event);
                found = found.map(|after| after + 1);
            }
            // Before the event is found, half of the picture is enough.
            let most =
                if around.is_none() || found.is_some() { MAX_EVENTS } else { MAX_EVENTS / 2 };
            while kept.len() > most {
                kept.pop_front();
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() || found.is_some_and(|after| after >= MAX_EVENTS / 2) {
            break;
        }
    }
    progress.finish_and_clear();
    ensure!(around.is_none() || found.is_some(), "this event is not held in this room");
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
        .with_context(|| format!("{event_id} is no event; is the store damaged?"))?;
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
        // What an unreadable event claims says nothing.
        depth: read.pdu().map_or(0, Pdu::depth),
        arrival,
        prev_events,
        marks,
        event_id,
    })
}

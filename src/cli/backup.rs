//! `backscroll backup`.

use std::{io::Write as _, path::PathBuf};

use anyhow::Context as _;
use indicatif::ProgressBar;

use super::{
    ServerArgs,
    client::{Channel, connect, told},
    export::write_room,
    progress_target,
};
use crate::{
    backup::{RoomFile, Writer},
    proto::v1::{self as pb, history_service_client::HistoryServiceClient},
};

/// Rooms asked for at once.
const PAGE: u32 = 500;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Goes on while the service serves: each room is written as it is at one moment. A backup is a folder
of files in the room format and a manifest with their checksums; `backscroll verify --backup DIR`
checks it, `backscroll restore` puts it into an empty store. Cut off, it can be run again and goes
on with the room that was not finished.")]
pub(super) struct Args {
    #[command(flatten)]
    server: ServerArgs,

    /// Where the backup is to lie; made if it is not there.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { server, dir } = args;
    let mut history = connect(&server).await?.history;
    let mut backup = Writer::open(&dir)?;
    let progress = ProgressBar::with_draw_target(None, progress_target());
    let mut page_token = String::new();
    loop {
        let request = pb::ListRoomsRequest { page_size: PAGE, page_token };
        let page = history.list_rooms(request).await.map_err(|status| told(&status))?.into_inner();
        for room_id in page.room_ids {
            if backup.has(&room_id) {
                continue;
            }
            let request = pb::GetRoomRequest { room_id: room_id.clone() };
            let room = history.get_room(request).await.map_err(|status| told(&status))?;
            progress.set_message(room_id.clone());
            let mut file = backup.begin_room()?;
            let events =
                write_room(&mut history, room.into_inner(), (&mut file, &progress)).await?;
            let purged = write_purged(&mut history, &backup, &room_id).await?;
            backup.end_room((file, purged), &room_id, events)?;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    progress.finish_and_clear();
    let (rooms, events) = backup.finish()?;
    println!("{rooms} rooms, {events} events in {}", dir.display());
    Ok(())
}

/// Writes which events were purged from a room, if any were.
async fn write_purged(
    history: &mut HistoryServiceClient<Channel>,
    backup: &Writer,
    room_id: &str,
) -> anyhow::Result<Option<RoomFile>> {
    let (mut file, mut page_token) = (None, String::new());
    loop {
        let room_id = room_id.to_owned();
        let request = pb::ListPurgedEventsRequest { room_id, page_size: 0, page_token };
        let page = history.list_purged_events(request).await.map_err(|status| told(&status))?;
        let page = page.into_inner();
        for hash in page.event_id_hashes {
            let out: &mut RoomFile = match &mut file {
                Some(file) => file,
                None => file.insert(backup.begin_purged()?),
            };
            let hash: [u8; 16] = (*hash).try_into().context("a hash of another length")?;
            writeln!(out, "{:032x}", u128::from_be_bytes(hash))?;
        }
        if page.next_page_token.is_empty() {
            return Ok(file);
        }
        page_token = page.next_page_token;
    }
}

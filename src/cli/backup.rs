//! `backscroll backup`.

use std::{io::Write as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use indicatif::ProgressBar;
use tokio::time::sleep;
use tonic::Code;

use super::{
    ServerArgs,
    client::{Channel, Clients, Told, connect, told},
    export::{IDS, write_room},
    out, progress_target,
};
use crate::{
    backup::{RoomFile, Withheld, Writer},
    proto::v1::{
        self as pb, admin_service_client::AdminServiceClient,
        history_service_client::HistoryServiceClient,
    },
};

/// Rooms asked for at once.
const PAGE: u32 = 500;
/// How often a room is begun at most, and the pause while events of it are removed.
const MAX_TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

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
    let Clients { mut history, mut admin, .. } = connect(&server).await?;
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
            progress.set_message(room_id.clone());
            write_steadily(&mut history, (&mut backup, &progress), &room_id).await?;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    // Last: what is deleted while rooms are written is among it.
    let withheld = withheld(&mut admin).await?;
    progress.finish_and_clear();
    let (rooms, events) = backup.finish(withheld)?;
    out::line(format_args!("{rooms} rooms, {events} events in {}", dir.display()))?;
    Ok(())
}

/// Writes one room, if it is still there. Begins anew when the room was deleted meanwhile and has
/// come back, or when too much of it is being removed.
async fn write_steadily(
    history: &mut HistoryServiceClient<Channel>,
    (backup, progress): (&mut Writer, &ProgressBar),
    room_id: &str,
) -> anyhow::Result<()> {
    let mut tries = 1;
    while let Err(failure) = write(history, (backup, progress), room_id).await {
        backup.abandon_room()?;
        match failure.downcast_ref::<Told>().map(|it| it.code) {
            Some(Code::NotFound) => {
                let request = pb::GetRoomRequest { room_id: room_id.to_owned() };
                match history.get_room(request).await {
                    Err(status) if status.code() == Code::NotFound => return Ok(()),
                    Ok(_) if tries < MAX_TRIES => {}
                    Ok(_) | Err(_) => return Err(failure),
                }
            }
            Some(Code::Aborted) if tries < MAX_TRIES => sleep(BETWEEN_TRIES).await,
            _ => return Err(failure),
        }
        tries += 1;
    }
    Ok(())
}

/// Writes one room.
async fn write(
    history: &mut HistoryServiceClient<Channel>,
    (backup, progress): (&mut Writer, &ProgressBar),
    room_id: &str,
) -> anyhow::Result<()> {
    let request = pb::GetRoomRequest { room_id: room_id.to_owned() };
    let room = history.get_room(request).await.map_err(|status| told(&status))?;
    let mut file = backup.begin_room()?;
    let events = write_room(history, room.into_inner(), (&mut file, progress)).await?;
    let purged = write_purged(history, backup, room_id).await?;
    backup.end_room((file, purged), room_id, events)?;
    Ok(())
}

/// What is to stay away from the store as a whole.
async fn withheld(admin: &mut AdminServiceClient<Channel>) -> anyhow::Result<Withheld> {
    let (mut withheld, mut page_token) = (Withheld::default(), String::new());
    loop {
        let request = pb::ListDeletedRoomsRequest { page_size: IDS, page_token };
        let page = admin.list_deleted_rooms(request).await.map_err(|status| told(&status))?;
        let page = page.into_inner();
        withheld.rooms.extend(page.room_ids);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    loop {
        let request = pb::ListErasedUsersRequest { page_size: IDS, page_token };
        let page = admin.list_erased_users(request).await.map_err(|status| told(&status))?;
        let page = page.into_inner();
        withheld.users.extend(page.user_ids);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(withheld);
        }
    }
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
        let request = pb::ListPurgedEventsRequest { room_id, page_size: IDS, page_token };
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

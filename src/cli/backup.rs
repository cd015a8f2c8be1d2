//! The command `backscroll backup`.

use std::{collections::BTreeMap, io::Write as _, path::PathBuf, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use indicatif::ProgressBar;
use tokio::time::sleep;
use tonic::Code;

use super::{
    ServerArgs,
    client::{Channel, Clients, ServiceError, connect, for_each_page, message},
    export::{MAX_PAGE_OF_IDS, write_room},
    out, progress_target,
};
use crate::{
    backup::{BackupBan, BackupStart, BackupWriter, RoomFile, Tombstones, Totals},
    proto::v1::{
        self as pb, admin_service_client::AdminServiceClient,
        feeder_service_client::FeederServiceClient, history_service_client::HistoryServiceClient,
    },
};

/// Rooms on one page.
const PAGE_SIZE: u32 = 500;
/// How often a room is tried at most.
const MAX_TRIES: u32 = 20;
/// The pause between two tries while events of the room are being removed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The service keeps serving meanwhile. Each room is written as it is at one moment. A backup is a folder
of files in the room format, and a manifest with their checksums. `backscroll verify --backup DIR`
checks a backup, and `backscroll restore` puts it into an empty store. If a backup is interrupted, run
the command again: it continues with the first room that is not complete.")]
pub(super) struct BackupArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// The folder for the backup. It is created if it does not exist.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) async fn run(args: BackupArgs) -> anyhow::Result<()> {
    let BackupArgs { server, dir } = args;
    let Clients { mut history, mut admin, mut feeder, .. } = connect(&server).await?;
    let mut backup = Backup {
        writer: BackupWriter::open(&dir)?,
        progress: ProgressBar::with_draw_target(None, progress_target()),
    };
    if !backup.writer.is_begun() {
        // The cursors come first: what a later cursor leaves behind may be missing in a room.
        let cursors = cursors(&mut feeder).await?;
        let not_served = not_served(&mut admin).await?;
        backup.writer.begin(BackupStart { cursors, not_served })?;
    }
    for_each_page(async |page_token| {
        let request = pb::ListRoomsRequest { page_size: PAGE_SIZE, page_token };
        let page = message(history.list_rooms(request).await)?;
        for room_id in page.room_ids {
            if !backup.writer.has(&room_id) {
                backup.progress.set_message(room_id.clone());
                backup.write_room_with_retries(&mut history, &room_id).await?;
            }
        }
        Ok(page.next_page_token)
    })
    .await?;
    // Tombstones come last, so that they include rooms that were deleted meanwhile.
    let tombstones = tombstones(&mut admin).await?;
    backup.progress.finish_and_clear();
    let Totals { rooms, events } = backup.writer.finish(tombstones)?;
    out::line(format_args!("{rooms} rooms, {events} events in {}", dir.display()))?;
    Ok(())
}

/// A backup that is being written.
struct Backup {
    writer: BackupWriter,
    progress: ProgressBar,
}

impl Backup {
    /// Writes a room, unless it was deleted. Starts the room again if it was deleted and appended
    /// again meanwhile, or if too many of its events are being removed.
    async fn write_room_with_retries(
        &mut self,
        history: &mut HistoryServiceClient<Channel>,
        room_id: &str,
    ) -> anyhow::Result<()> {
        let mut tries = 1;
        while let Err(failure) = self.write_room(history, room_id).await {
            self.writer.abandon_room()?;
            match failure.downcast_ref::<ServiceError>().map(|it| it.code) {
                Some(Code::NotFound) => {
                    let request = pb::GetRoomRequest { room_id: room_id.to_owned() };
                    match history.get_room(request).await {
                        Err(status) if status.code() == Code::NotFound => return Ok(()),
                        Ok(_) if tries < MAX_TRIES => {}
                        Ok(_) | Err(_) => return Err(failure),
                    }
                }
                Some(Code::Aborted) if tries < MAX_TRIES => sleep(RETRY_PAUSE).await,
                _ => return Err(failure),
            }
            tries += 1;
        }
        Ok(())
    }

    async fn write_room(
        &mut self,
        history: &mut HistoryServiceClient<Channel>,
        room_id: &str,
    ) -> anyhow::Result<()> {
        let request = pb::GetRoomRequest { room_id: room_id.to_owned() };
        let room = message(history.get_room(request).await)?;
        let mut file = self.writer.begin_room()?;
        let events = write_room(history, room, &mut file, &self.progress).await?;
        let purged = self.write_purged(history, room_id).await?;
        self.writer.end_room(file, purged, room_id, events)?;
        Ok(())
    }

    /// Writes the hashes of the purged events of a room; `None` if there are none.
    async fn write_purged(
        &self,
        history: &mut HistoryServiceClient<Channel>,
        room_id: &str,
    ) -> anyhow::Result<Option<RoomFile>> {
        let mut file = None;
        for_each_page(async |page_token| {
            let page_size = MAX_PAGE_OF_IDS;
            let room_id = room_id.to_owned();
            let request = pb::ListPurgedEventsRequest { room_id, page_size, page_token };
            let page = message(history.list_purged_events(request).await)?;
            for hash in page.event_id_hashes {
                let out: &mut RoomFile = match &mut file {
                    Some(file) => file,
                    None => file.insert(self.writer.begin_purged()?),
                };
                let hash: [u8; 16] = (*hash).try_into().context("a hash of another length")?;
                writeln!(out, "{:032x}", u128::from_be_bytes(hash))?;
            }
            Ok(page.next_page_token)
        })
        .await?;
        Ok(file)
    }
}

/// The tombstones of the whole store: deleted rooms, erased users and bans that redact.
async fn tombstones(admin: &mut AdminServiceClient<Channel>) -> anyhow::Result<Tombstones> {
    let mut tombstones = Tombstones::default();
    for_each_page(async |page_token| {
        let request = pb::ListDeletedRoomsRequest { page_size: MAX_PAGE_OF_IDS, page_token };
        let page = message(admin.list_deleted_rooms(request).await)?;
        tombstones.rooms.extend(page.room_ids);
        Ok(page.next_page_token)
    })
    .await?;
    for_each_page(async |page_token| {
        let request = pb::ListErasedUsersRequest { page_size: MAX_PAGE_OF_IDS, page_token };
        let page = message(admin.list_erased_users(request).await)?;
        tombstones.users.extend(page.user_ids);
        Ok(page.next_page_token)
    })
    .await?;
    for_each_page(async |page_token| {
        let request = pb::ListBanRedactionsRequest { page_size: MAX_PAGE_OF_IDS, page_token };
        let page = message(admin.list_ban_redactions(request).await)?;
        tombstones.bans.extend(page.bans.into_iter().map(|it| {
            let pb::BanRedaction { room_id, user_id, ban_event_id, before_arrival } = it;
            BackupBan { room_id, user_id, ban_event_id, before_arrival }
        }));
        Ok(page.next_page_token)
    })
    .await?;
    tombstones.not_served = not_served(admin).await?;
    Ok(tombstones)
}

/// Why rooms are not served, by their ids.
async fn not_served(
    admin: &mut AdminServiceClient<Channel>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut rooms = BTreeMap::new();
    for_each_page(async |page_token| {
        let request = pb::ListRoomsNotServedRequest { page_size: MAX_PAGE_OF_IDS, page_token };
        let page = message(admin.list_rooms_not_served(request).await)?;
        rooms.extend(page.rooms.into_iter().map(|it| {
            let reason = it.not_served_reason().as_str_name();
            let reason = reason.trim_start_matches("NOT_SERVED_REASON_").to_lowercase();
            (it.room_id, reason)
        }));
        Ok(page.next_page_token)
    })
    .await?;
    Ok(rooms)
}

/// The cursors of feeders by their names, in Base64.
async fn cursors(
    feeder: &mut FeederServiceClient<Channel>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut cursors = BTreeMap::new();
    let listed = message(feeder.list_cursors(pb::ListCursorsRequest {}).await)?;
    for feeder_name in listed.feeder_names {
        let request = pb::GetCursorRequest { feeder_name: feeder_name.clone() };
        let read = message(feeder.get_cursor(request).await)?;
        if !read.cursor.is_empty() {
            cursors.insert(feeder_name, STANDARD.encode(read.cursor));
        }
    }
    Ok(cursors)
}

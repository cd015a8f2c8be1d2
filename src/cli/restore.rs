//! The command `backscroll restore`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use indicatif::ProgressBar;

use super::{Mib, StoreArgs, out, progress_target};
use crate::{
    backup::{self, BackupBan, BackupRoom, Contents},
    context::Context,
    ingest::{self, NewEvent, Outcome},
    store::{BanRedaction, BannedUser, Decision, NotServedReason, Options, View as _},
};

/// Events appended between two flushes.
const EVENTS_PER_FLUSH: u64 = 512;
/// Tombstones of purged events in one batch.
const TOMBSTONES_PER_BATCH: usize = 1_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The checksum of each file is verified before its events are stored. If a restore is interrupted, run the
command again. The store must be empty, or contain an interrupted restore of this backup. The service must
not be running on it.")]
pub(super) struct RestoreArgs {
    /// The folder of the backup.
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    #[command(flatten)]
    store: StoreArgs,

    /// Memory for the caches of the store, in MiB.
    #[arg(long, env = "BACKSCROLL_CACHE_MIB", default_value = "256", value_name = "MIB")]
    cache_mib: Mib,
}

pub(super) fn run(args: RestoreArgs) -> anyhow::Result<()> {
    let RestoreArgs { dir, store, cache_mib } = args;
    let Contents { start, mut rooms, tombstones } = backup::contents(&dir)?;
    // A room may have been deleted after its file was written.
    rooms.retain(|it| !tombstones.rooms.contains(&it.room_id));
    let options = Options::of(store.place()?, cache_mib.bytes);
    let cx = crate::server::open(&options)?;
    for (_, held) in cx.store.rooms(None, usize::MAX)? {
        if !rooms.iter().any(|it| it.room_id == held.room_id) {
            let (held, place) = (held.room_id, &options.place);
            bail!("{place} holds {held}, which is not in the backup: restore into an empty store");
        }
    }
    for user_id in &tombstones.users {
        cx.store.set_erased(user_id, true)?;
    }
    for ban in &tombstones.bans {
        let BackupBan { room_id, user_id, ban_event_id, before_arrival } = ban.clone();
        let user = BannedUser { room_id, user_id };
        let ban = BanRedaction { ban_event_id, before_arrival };
        ingest::set_ban_redaction(&cx.store, &user, Some(&ban))?;
    }
    for (room_id, reason) in &tombstones.not_served {
        // What a newer build calls by another name is not served either.
        let reason = NotServedReason::of_label(reason).unwrap_or(NotServedReason::Differs);
        cx.store.set_rooms_served(std::slice::from_ref(room_id), Some(reason))?;
    }
    tombstones.rooms.iter().try_for_each(|it| cx.store.bury_room(it))?;
    let events = rooms.iter().map(|it| it.events).sum();
    let progress = ProgressBar::with_draw_target(Some(events), progress_target());
    for room in &rooms {
        restore_room(&cx, &dir, room, &progress).with_context(|| room.room_id.clone())?;
    }
    cx.store.flush()?;
    // Last, so that a feeder never continues behind what an interrupted restore has left out.
    for (feeder_name, cursor) in &start.cursors {
        let cursor = STANDARD.decode(cursor).context("a cursor in the manifest is damaged")?;
        cx.store.put_cursor(feeder_name, &cursor)?;
    }
    progress.finish_and_clear();
    let place = &options.place;
    out::line(format_args!("{} rooms, {events} events in {place}", rooms.len()))?;
    Ok(())
}

fn restore_room(
    cx: &Context,
    dir: &Path,
    room: &BackupRoom,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let (header, lines) = backup::open_room(dir, room)?;
    for user_id in &header.erased_users {
        cx.store.set_erased(user_id, true)?;
    }
    for (number, line) in (1..).zip(lines) {
        let line = line?;
        match ingest::append_unflushed(cx, &NewEvent::of_line(&header, &line))? {
            Outcome::Appended { .. } | Outcome::Purged { .. } => progress.inc(1),
            Outcome::Refused { refusal, .. } => bail!("{}: {refusal}", line.event_id),
        }
        if number % EVENTS_PER_FLUSH == 0 {
            cx.store.flush()?;
        }
    }
    for hashes in backup::purged_of(dir, room)?.chunks(TOMBSTONES_PER_BATCH) {
        cx.store.decide(&room.room_id, None, |edit| {
            hashes.iter().try_for_each(|it| edit.bury_hash(*it)).map(Decision::Commit)
        })?;
    }
    let held = cx.store.room_num(&room.room_id)?.map(|it| cx.store.room(it)).transpose()?;
    let held = held.map_or(0, |it| u64::from(it.next_event.0));
    anyhow::ensure!(held == room.events, "{held} events are held, the backup has {}", room.events);
    Ok(())
}

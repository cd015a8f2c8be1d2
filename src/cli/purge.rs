//! The commands `backscroll purge` and `backscroll delete-room`.

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    ServerArgs,
    client::{connect, message, service_error},
    out, progress_target,
};
use crate::proto::v1 as pb;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Purges all events that the given event follows, and events beside it that claim a lower depth. Message
events are removed. State events become outliers, which are not served, because later states consist of
them. Purged events cannot be imported again unless --may-return is given; only a backup restores them.
If a purge is interrupted, run
the command again: it continues.")]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// The id of the room.
    #[arg(value_name = "ROOM_ID")]
    room_id: String,

    /// The oldest event to keep.
    #[arg(value_name = "EVENT_ID")]
    event_id: String,

    /// Allow that the purged events are appended again.
    #[arg(long, env = "BACKSCROLL_MAY_RETURN")]
    may_return: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
All callers see the deletion at once; the records are then removed in small steps. The events cannot be
imported again unless --may-return is given, now or later for a room that was deleted before. Only a
backup restores them.")]
pub(super) struct DeleteRoomArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// The id of the room.
    #[arg(value_name = "ROOM_ID")]
    room_id: String,

    /// Allow that the events of the room are appended again.
    #[arg(long, env = "BACKSCROLL_MAY_RETURN")]
    may_return: bool,
}

pub(super) async fn purge(args: PurgeArgs) -> anyhow::Result<()> {
    let PurgeArgs { server, room_id, event_id, may_return } = args;
    let mut ingest = connect(&server).await?.ingest;
    let request = pb::PurgeHistoryRequest { room_id, event_id, may_return };
    let mut responses = message(ingest.purge_history(request).await)?;
    let progress = bar();
    let mut last = pb::PurgeHistoryResponse::default();
    while let Some(response) = responses.message().await.map_err(|status| service_error(&status))? {
        progress.set_length(response.total_event_count);
        progress.set_position(response.removed_event_count + response.outlier_count);
        last = response;
    }
    progress.finish_and_clear();
    anyhow::ensure!(last.done, "the purge is not complete; run the command again");
    let pb::PurgeHistoryResponse { removed_event_count, outlier_count, .. } = last;
    out::line(format_args!(
        "{removed_event_count} events removed, {outlier_count} state events made outliers"
    ))?;
    Ok(())
}

pub(super) async fn delete_room(args: DeleteRoomArgs) -> anyhow::Result<()> {
    let DeleteRoomArgs { server, room_id, may_return } = args;
    let mut ingest = connect(&server).await?.ingest;
    let request = pb::DeleteRoomRequest { room_id, may_return };
    let mut responses = message(ingest.delete_room(request).await)?;
    let progress = bar();
    let mut last = pb::DeleteRoomResponse::default();
    while let Some(response) = responses.message().await.map_err(|status| service_error(&status))? {
        progress.set_position(response.removed_record_count);
        last = response;
    }
    progress.finish_and_clear();
    anyhow::ensure!(
        last.done,
        "the room is deleted, but not all of its records are removed; the service continues when it starts"
    );
    out::line(format_args!("the room is deleted, {} records removed", last.removed_record_count))?;
    Ok(())
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {eta} left");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(None, progress_target()).with_style(style)
}

//! `backscroll purge` and `backscroll delete-room`.

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    ServerArgs,
    client::{connect, told},
    out, progress_target,
};
use crate::proto::v1 as pb;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Everything that the event follows goes, and what stands beside it and claims a lower depth. Messages
are removed, state events stay as outliers: nobody is served them, but later states are made of
them. None of it comes back by an import. Cut off, it has gone a part of the way; run it again.
There is no way back but a backup.")]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// The room.
    #[arg(value_name = "ROOM_ID")]
    room_id: String,

    /// The oldest event that is to stay.
    #[arg(value_name = "EVENT_ID")]
    event_id: String,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The room is gone at once for everybody who asks; its records are then removed bit by bit. None of it
comes back by an import, unless --may-return is given (also later, for a room deleted before).
There is no way back but a backup.")]
pub(super) struct DeleteRoomArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// The room.
    #[arg(value_name = "ROOM_ID")]
    room_id: String,

    /// Let the room come back when its events are appended again.
    #[arg(long, env = "BACKSCROLL_MAY_RETURN")]
    may_return: bool,
}

pub(super) async fn purge(args: PurgeArgs) -> anyhow::Result<()> {
    let PurgeArgs { server, room_id, event_id } = args;
    let mut ingest = connect(&server).await?.ingest;
    let request = pb::PurgeHistoryRequest { room_id, event_id };
    let answers = ingest.purge_history(request).await.map_err(|status| told(&status))?;
    let (mut answers, progress) = (answers.into_inner(), bar());
    let mut last = pb::PurgeHistoryResponse::default();
    while let Some(answer) = answers.message().await.map_err(|status| told(&status))? {
        progress.set_length(answer.total_event_count);
        progress.set_position(answer.removed_event_count + answer.outlier_count);
        last = answer;
    }
    progress.finish_and_clear();
    anyhow::ensure!(last.done, "the service ended before all was done; run it again");
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
    let answers = ingest.delete_room(request).await.map_err(|status| told(&status))?;
    let (mut answers, progress) = (answers.into_inner(), bar());
    let mut last = pb::DeleteRoomResponse::default();
    while let Some(answer) = answers.message().await.map_err(|status| told(&status))? {
        progress.set_position(answer.removed_record_count);
        last = answer;
    }
    progress.finish_and_clear();
    anyhow::ensure!(last.done, "the room is deleted; the service goes on with it when it starts");
    out::line(format_args!("the room is deleted, {} records removed", last.removed_record_count))?;
    Ok(())
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {eta} left");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(None, progress_target()).with_style(style)
}

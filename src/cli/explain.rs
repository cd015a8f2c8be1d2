//! `backscroll explain`.

use super::{
    ServerArgs,
    client::{connect, told},
    out,
};
use crate::proto::v1 as pb;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints what the server gets (full, redacted, not served, refused), the rule that decides, and the
facts it is decided on: by the very code that answers federation requests.")]
pub(super) struct Args {
    #[command(flatten)]
    server: ServerArgs,

    /// The room.
    #[arg(value_name = "ROOM_ID")]
    room_id: String,

    /// The event.
    #[arg(value_name = "EVENT_ID")]
    event_id: String,

    /// The server that asks.
    #[arg(value_name = "SERVER")]
    origin: String,

    /// The name of our own server. Left out: that of the room's id.
    #[arg(long, env = "BACKSCROLL_DESTINATION", value_name = "SERVER")]
    destination: Option<String>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { server, room_id, event_id, origin, destination } = args;
    let of_room = || room_id.split_once(':').map(|(_, server)| server.to_owned());
    let Some(destination) = destination.or_else(of_room) else {
        anyhow::bail!(
            "this room's id names no server: give our own server's name as --destination"
        );
    };
    let mut history = connect(&server).await?.history;
    let requester = Some(pb::Requester { origin, destination });
    let request = pb::ExplainAccessRequest { room_id, event_id, requester };
    let answer = history.explain_access(request).await.map_err(|status| told(&status))?;
    let answer = answer.into_inner();
    let outcome = match answer.outcome() {
        pb::AccessOutcome::Full => "full",
        pb::AccessOutcome::Redacted => "redacted",
        pb::AccessOutcome::NotServed => "not served",
        pb::AccessOutcome::Refused => "refused",
        pb::AccessOutcome::Unspecified => "unknown; is the service of another version?",
    };
    out::line(format_args!("{outcome}: {}", answer.rule))?;
    for fact in answer.facts {
        out::line(format_args!("  {fact}"))?;
    }
    Ok(())
}

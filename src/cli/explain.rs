//! The command `backscroll explain`.

use super::{
    ServerArgs,
    client::{connect, message},
    out,
};
use crate::proto::v1 as pb;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints what the server would get (full, redacted, not served, refused), the rule that decides, and the
facts on which it decides. The same code decides about requests of other servers.")]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// The id of the room.
    #[arg(value_name = "ROOM_ID")]
    room_id: String,

    /// The id of the event.
    #[arg(value_name = "EVENT_ID")]
    event_id: String,

    /// The name of the requesting server.
    #[arg(value_name = "SERVER")]
    origin: String,

    /// The name of our own server. By default the server name in the room id.
    #[arg(long, env = "BACKSCROLL_DESTINATION", value_name = "SERVER")]
    destination: Option<String>,
}

pub(super) async fn run(args: ExplainArgs) -> anyhow::Result<()> {
    let ExplainArgs { server, room_id, event_id, origin, destination } = args;
    let of_room = || room_id.split_once(':').map(|(_, server)| server.to_owned());
    let Some(destination) = destination.or_else(of_room) else {
        anyhow::bail!(
            "the room id contains no server name: give the name of our own server with --destination"
        );
    };
    let mut history = connect(&server).await?.history;
    let requester = Some(pb::Requester { origin, destination });
    let request = pb::ExplainAccessRequest { room_id, event_id, requester };
    let answer = message(history.explain_access(request).await)?;
    let outcome = match answer.outcome() {
        pb::AccessOutcome::Full => "full",
        pb::AccessOutcome::Redacted => "redacted",
        pb::AccessOutcome::NotServed => "not served",
        pb::AccessOutcome::Refused => "refused",
        pb::AccessOutcome::Unspecified => "unknown (the service has another version)",
    };
    out::line(format_args!("{outcome}: {}", answer.rule))?;
    for fact in answer.facts {
        out::line(format_args!("  {fact}"))?;
    }
    Ok(())
}

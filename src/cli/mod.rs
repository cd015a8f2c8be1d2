//! The command line: what can be typed, and which file does it. Kept stable, since scripts call it.

mod backup;
mod client;
mod explain;
mod export;
mod graph;
mod health;
mod import;
mod out;
mod purge;
mod restore;
mod serve;
mod signatures;
mod state;
mod stats;
mod verify;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use indicatif::ProgressDrawTarget;

use crate::telemetry::{self, LogFormat, Logs};

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "backscroll",
    version,
    about = "Remembers the history of Matrix rooms, and answers other servers what came before",
    after_help = "\
A first look, in three terminals:
  backscroll serve --data-dir ./data
  backscroll import tests/rooms/*/room.ndjson
  backscroll explain '!room:example.org' '$event' other.example.org --destination example.org

Every flag can also be given by an environment variable, named beside it. Exit codes: 0 done,
1 something was refused or failed (standard error says what), 2 the command line is wrong."
)]
pub struct Cli {
    /// How logs look; they go to standard error.
    #[arg(
        long,
        global = true,
        env = "BACKSCROLL_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    log_format: LogFormat,

    /// What is logged: levels, by module if need be, such as `info,backscroll=debug`.
    #[arg(
        long,
        global = true,
        env = "BACKSCROLL_LOG",
        default_value = "warn,backscroll=info,ruma_state_res=error",
        value_name = "FILTER"
    )]
    log: String,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves gRPC over the store in a directory.
    Serve(serve::Args),
    /// Appends rooms from files in the room format.
    Import(import::Args),
    /// Writes a room in the room format to standard output.
    Export(export::Args),
    /// Prints the room state after an event, or the current state.
    State(state::Args),
    /// Writes every room into a folder, while the service serves.
    Backup(backup::Args),
    /// Puts a backup into an empty store.
    Restore(restore::Args),
    /// Forgets what came before an event of a room.
    Purge(purge::PurgeArgs),
    /// Deletes a room.
    DeleteRoom(purge::DeleteRoomArgs),
    /// Walks a whole store and names everything that is not as it should be.
    Verify(verify::Args),
    /// Says why a server gets an event whole, redacted, or nothing.
    Explain(explain::Args),
    /// Draws a room's event graph.
    Graph(graph::Args),
    /// Prints the whole store in figures.
    Stats(stats::Args),
    /// Asks a service how it is, as a probe would.
    Health(health::Args),
}

/// Where the service listens, for the commands that ask it.
#[derive(Clone, Debug, clap::Args)]
struct ServerArgs {
    /// The service to ask.
    #[arg(
        long,
        env = "BACKSCROLL_SERVER",
        default_value = "http://127.0.0.1:8470",
        value_name = "URL"
    )]
    server: String,

    /// For a service at https: who signs its certificate, PEM.
    #[arg(long, env = "BACKSCROLL_SERVER_CA", value_name = "FILE")]
    server_ca: Option<PathBuf>,

    /// Our own certificate, if the service wants to see one, PEM.
    #[arg(
        long,
        env = "BACKSCROLL_CERT",
        value_name = "FILE",
        requires_all = ["server_ca", "key"]
    )]
    cert: Option<PathBuf>,

    /// Its key, PEM.
    #[arg(long, env = "BACKSCROLL_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// A file with the token that the service wants to see.
    #[arg(long, env = "BACKSCROLL_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Where progress is drawn: on standard error, if a person looks at it.
fn progress_target() -> ProgressDrawTarget {
    if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}

impl Cli {
    /// Does what was typed. Whether everything went as asked.
    ///
    /// # Errors
    /// What went wrong, with what to do next.
    pub fn start(self) -> anyhow::Result<bool> {
        let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
        let otlp_endpoint = match &self.command {
            Command::Serve(args) => args.otlp_endpoint.as_deref(),
            _ => None,
        };
        let logs = Logs { format: self.log_format, filter: &self.log };
        let traces = {
            let _entered = runtime.enter();
            telemetry::start("backscroll", logs, otlp_endpoint)?
        };
        let done = runtime.block_on(self.command.run());
        let done = done.or_else(|it| if out::was_closed(&it) { Ok(true) } else { Err(it) });
        drop(traces);
        // What is still going on, an opening that was given up or a request past its grace, may be
        // cut off anywhere: nothing of it was acknowledged.
        runtime.shutdown_background();
        done
    }
}

impl Command {
    async fn run(self) -> anyhow::Result<bool> {
        match self {
            Self::Serve(args) => serve::run(args).await.map(|()| true),
            Self::Import(args) => import::run(args).await,
            Self::Export(args) => export::run(args).await.map(|()| true),
            Self::State(args) => state::run(args).await.map(|()| true),
            Self::Backup(args) => backup::run(args).await.map(|()| true),
            Self::Restore(args) => restore::run(args).map(|()| true),
            Self::Purge(args) => purge::purge(args).await.map(|()| true),
            Self::DeleteRoom(args) => purge::delete_room(args).await.map(|()| true),
            Self::Verify(args) => verify::run(args).await,
            Self::Explain(args) => explain::run(args).await.map(|()| true),
            Self::Graph(args) => graph::run(args).await.map(|()| true),
            Self::Stats(args) => stats::run(args).await.map(|()| true),
            Self::Health(args) => health::run(args).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    /// Every flag has a variable, every flag and command a sentence.
    #[test]
    fn help_teaches() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands().filter(|it| it.get_name() != "help") {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                let id = argument.get_id();
                assert!(argument.get_help().is_some(), "{} {id}", command.get_name());
                let is_flag = argument.get_long().is_some() && id != "help" && id != "version";
                assert!(!is_flag || argument.get_env().is_some(), "{} {id}", command.get_name());
            }
        }
    }
}

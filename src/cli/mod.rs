//! The command line: one file for each command. Names of commands and flags are kept stable, because
//! scripts use them.

mod backup;
mod client;
mod compact;
mod copy;
mod explain;
mod export;
mod graph;
mod health;
mod import;
mod out;
mod prepare;
mod purge;
mod restore;
mod serve;
mod signatures;
mod state;
mod stats;
mod store;
mod verify;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use indicatif::ProgressDrawTarget;

use self::store::StoreArgs;
use crate::{
    store::RedactedContent,
    telemetry::{self, LogFormat, Logs},
};

/// The parsed command line.
#[derive(Debug, Parser)]
#[command(
    name = "backscroll",
    version,
    about = "Stores the history of Matrix rooms, and serves it to other homeservers",
    after_help = "\
A first look, in three terminals:
  backscroll serve --data-dir ./data
  backscroll import tests/rooms/*/room.ndjson
  backscroll explain '!room:example.org' '$event' other.example.org --destination example.org

Each flag can also be set by the environment variable named beside it. Exit codes: 0 if everything was
done, 1 if something was refused or failed (standard error contains the reason), 2 if the command line
is wrong."
)]
pub struct Cli {
    /// The format of the log, which is written to standard error.
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL_OPTIONS,
        env = "BACKSCROLL_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    log_format: LogFormat,

    /// The levels that are logged, also by module, such as `info,backscroll=debug`.
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL_OPTIONS,
        env = "BACKSCROLL_LOG",
        default_value = "warn,backscroll=info,ruma_state_res=error",
        value_name = "FILTER"
    )]
    log: String,

    #[command(subcommand)]
    command: Command,
}

/// The heading of the flags that all commands have.
const GLOBAL_OPTIONS: &str = "Global options";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the store in a directory over gRPC.
    Serve(serve::ServeArgs),
    /// Make the tables of a store in a PostgreSQL database.
    Prepare(prepare::PrepareArgs),
    /// Append rooms from files in the room format.
    Import(import::ImportArgs),
    /// Write a room to standard output, in the room format.
    Export(export::ExportArgs),
    /// Print the room state after an event, or the current state.
    State(state::StateArgs),
    /// Write all rooms into a folder, while the service keeps serving.
    Backup(backup::BackupArgs),
    /// Restore a backup into an empty store.
    Restore(restore::RestoreArgs),
    /// Purge the history of a room before an event.
    Purge(purge::PurgeArgs),
    /// Delete a room with all of its events.
    DeleteRoom(purge::DeleteRoomArgs),
    /// Verify a whole store, and print each fault.
    Verify(verify::VerifyArgs),
    /// Copy a store into a new directory, without the bytes of what was removed.
    Compact(compact::CompactArgs),
    /// Copy a store into another engine, and verify the copy.
    Copy(copy::CopyArgs),
    /// Explain why a server gets an event in full, redacted, or not at all.
    Explain(explain::ExplainArgs),
    /// Draw the event graph of a room.
    Graph(graph::GraphArgs),
    /// Print counts and sizes of the whole store.
    Stats(stats::StatsArgs),
    /// Print the health of the service, for probes.
    Health(health::HealthArgs),
}

/// How to reach the service, for the commands that call it.
#[derive(Clone, Debug, clap::Args)]
struct ServerArgs {
    /// The URL of the service.
    #[arg(
        long,
        env = "BACKSCROLL_SERVER",
        default_value = "http://127.0.0.1:8470",
        value_name = "URL"
    )]
    server: String,

    /// The authority that signed the certificate of the service, PEM. Required for https.
    #[arg(long, env = "BACKSCROLL_SERVER_CA", value_name = "FILE")]
    server_ca: Option<PathBuf>,

    /// Our own certificate, PEM, for a service that requires client certificates.
    #[arg(
        long,
        env = "BACKSCROLL_CERT",
        value_name = "FILE",
        requires_all = ["server_ca", "key"]
    )]
    cert: Option<PathBuf>,

    /// The key of our own certificate, PEM.
    #[arg(long, env = "BACKSCROLL_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// A file with the token that the service requires.
    #[arg(long, env = "BACKSCROLL_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A size in MiB on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mib {
    bytes: u64,
}

impl FromStr for Mib {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mib: u64 = text.parse().map_err(|fault| format!("not a number of MiB: {fault}"))?;
        let bytes =
            mib.checked_mul(1 << 20).ok_or("more MiB than a number of bytes can express")?;
        Ok(Self { bytes })
    }
}

/// How long the content of redacted events is kept, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RedactedContentDays(RedactedContent);

impl FromStr for RedactedContentDays {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(RedactedContent::KeptForEver));
        }
        let days: u32 =
            text.parse().map_err(|fault| format!("not a number of days, nor `never`: {fault}"))?;
        Ok(Self(RedactedContent::RemovedAfter(Duration::from_hours(24 * u64::from(days)))))
    }
}

/// Where progress is drawn: on standard error if it is a terminal, otherwise nowhere.
fn progress_target() -> ProgressDrawTarget {
    if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    }
}

impl Cli {
    /// Runs the command. Returns whether everything was done; if not, the command has printed what
    /// was refused.
    ///
    /// # Errors
    /// The failure that ended the command, with advice where there is any.
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
        // Work that still runs, such as a request that was not finished in time, may stop at any
        // point, because none of it was acknowledged.
        runtime.shutdown_background();
        done
    }
}

impl Command {
    async fn run(self) -> anyhow::Result<bool> {
        match self {
            Self::Serve(args) => serve::run(args).await.map(|()| true),
            Self::Prepare(args) => prepare::run(args).await.map(|()| true),
            Self::Import(args) => import::run(args).await,
            Self::Export(args) => export::run(args).await.map(|()| true),
            Self::State(args) => state::run(args).await.map(|()| true),
            Self::Backup(args) => backup::run(args).await.map(|()| true),
            Self::Restore(args) => restore::run(args).map(|()| true),
            Self::Purge(args) => purge::purge(args).await.map(|()| true),
            Self::DeleteRoom(args) => purge::delete_room(args).await.map(|()| true),
            Self::Verify(args) => verify::run(args).await,
            Self::Compact(args) => compact::run(args).map(|()| true),
            Self::Copy(args) => copy::run(args),
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
    fn the_command_line_is_valid() {
        Cli::command().debug_assert();
    }

    /// Each flag has a variable, and each flag and command has a help text.
    #[test]
    fn help_is_complete() {
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

    #[test]
    fn a_size_that_overflows_is_refused() {
        assert_eq!("256".parse(), Ok(Mib { bytes: 256 << 20 }));
        assert_eq!("0".parse(), Ok(Mib { bytes: 0 }));
        for text in ["17592186044416", "-1", "1.5", "", "MiB"] {
            assert!(text.parse::<Mib>().is_err(), "{text}");
        }
    }
}

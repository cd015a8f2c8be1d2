//! The command line. Names of commands and flags are kept stable, because scripts use them.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use backscroll_telemetry::{self as telemetry, LogFormat, Logs};
use clap::{Parser, Subcommand};

use crate::{
    check, database::DatabaseFlags, export, export::ExportFlags, follow, history::HistoryFlags,
};

/// The parsed command line.
#[derive(Debug, Parser)]
#[command(
    name = "backscroll-synapse",
    version,
    about = "Follows the database of a Synapse homeserver, and keeps a history service equal to it",
    after_help = "\
Step by step:
  1. Create a role that may only read (run it as the owner of Synapse's database):
       backscroll-synapse check --role-sql > role.sql
       psql -d synapse -v password=SECRET -f role.sql
  2. Check that this role, this schema and this version can be followed:
       backscroll-synapse check --database postgresql://backscroll_follower@db/synapse \\
           --database-password-file password
  3. Follow. The first start copies all rooms; each is served once it is complete:
       backscroll-synapse follow --database postgresql://backscroll_follower@db/synapse \\
           --database-password-file password --history http://127.0.0.1:8470

Only SELECT is used, in transactions of a few seconds. Never create a publication for tables of Synapse:
Synapse's own statements would fail.

Each flag can also be set by the environment variable named beside it. Exit codes: 0 if everything was
done, 1 if something failed (standard error contains the reason), 2 if the command line is wrong."
)]
pub struct Cli {
    /// The format of the log, which is written to standard error.
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL_OPTIONS,
        env = "BACKSCROLL_SYNAPSE_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    log_format: LogFormat,

    /// The levels that are logged, also by module, such as `info,backscroll_synapse=debug`.
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL_OPTIONS,
        env = "BACKSCROLL_SYNAPSE_LOG",
        default_value = "warn,backscroll_synapse=info",
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
    /// Copy all rooms, then follow the database until stopped.
    Follow(Box<FollowArgs>),
    /// Check that the database can be followed: one line for each finding, with the SQL that mends it.
    Check(check::CheckArgs),
    /// Write rooms into files in the room format, straight from the database.
    Export(ExportFlags),
}

/// The flags of the command `follow`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It goes on where it was stopped: its cursor is in the history service. At most one runs for a history
service: a second one waits until the first has ended.

While it is away, or PostgreSQL or the history service is, it tries again, at the latest every 30 seconds.
It exits with code 1 if the schema is one that it does not know, if the role cannot read a table, or if
the database is another one than before.")]
pub(crate) struct FollowArgs {
    #[command(flatten)]
    database: DatabaseFlags,

    #[command(flatten)]
    history: HistoryFlags,

    #[command(flatten)]
    options: follow::FollowFlags,

    /// The address to serve /metrics, /healthz and /readyz on. Without it, none are served.
    #[arg(long, env = "BACKSCROLL_SYNAPSE_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    metrics_listen: Option<SocketAddr>,
}

impl Cli {
    /// Runs the command. Returns whether everything was done.
    ///
    /// # Errors
    /// When the command fails; the error is for people.
    pub fn start(self) -> anyhow::Result<bool> {
        let logs = Logs { format: self.log_format, filter: &self.log };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let command = self.command;
        let result = runtime.block_on(async {
            let _traces = telemetry::start("backscroll-synapse", logs, None)?;
            match command {
                Command::Follow(args) => follow(*args).await,
                Command::Check(args) => check::run(args).await,
                Command::Export(args) => export::run(args).await,
            }
        });
        // A statement that is under way must not delay the end.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    }
}

async fn follow(args: FollowArgs) -> anyhow::Result<bool> {
    let FollowArgs { database, history, options, metrics_listen } = args;
    let databases = database.into_databases().context("cannot use --database")?;
    let history = history.into_options()?;
    follow::run(follow::Start { databases, history, flags: options, metrics_listen }).await?;
    Ok(true)
}

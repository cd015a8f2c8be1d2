//! The command `backscroll prepare`.

use anyhow::{Context as _, bail};

use super::{out, store::PlaceParser};
use crate::store::{Place, Preparation, prepare};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Run it as a role that may make tables, before a service is started on the database, and again before a
newer build is started. What is there already stays. Services that are running are not disturbed.
  backscroll prepare --store postgres://owner@db.example.org/backscroll --serve-role backscroll
  backscroll serve --store postgres://backscroll@db.example.org/backscroll?password_file=/run/secrets/db")]
pub(super) struct PrepareArgs {
    /// The database: `postgres://USER@HOST/DATABASE`. The user must be allowed to make tables.
    #[arg(
        long,
        env = "BACKSCROLL_STORE",
        hide_env_values = true,
        value_name = "STORE",
        value_parser = PlaceParser
    )]
    store: Place,

    /// The role that services connect as. It gets the right to read and write the tables, and no other.
    #[arg(long, env = "BACKSCROLL_SERVE_ROLE", value_name = "ROLE")]
    serve_role: Option<String>,

    /// Spread the tables over the servers of Citus: the rows of a room stay together.
    #[arg(long, env = "BACKSCROLL_CITUS")]
    citus: bool,
}

/// Makes the tables, and prints what was done.
pub(super) async fn run(args: PrepareArgs) -> anyhow::Result<()> {
    let PrepareArgs { store, serve_role, citus } = args;
    let Place::Postgres(place) = &store else {
        bail!("{store} needs no preparation: only a PostgreSQL database does");
    };
    let preparation = Preparation { citus, serve_role };
    let done = prepare(place, &preparation).await;
    for line in done.with_context(|| format!("cannot prepare {store}"))? {
        out::line(format_args!("{line}"))?;
    }
    Ok(())
}

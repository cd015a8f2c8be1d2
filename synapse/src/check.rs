//! The command `check`: can this database be followed?

use crate::database::DatabaseFlags;

/// The flags of the command `check`.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    database: DatabaseFlags,
}

/// Runs the command. Returns whether the database can be followed.
pub(crate) async fn run(args: CheckArgs) -> anyhow::Result<bool> {
    let databases = args.database.into_databases()?;
    let mut session = databases.main.connect().await?;
    drop(session.begin().await?);
    Ok(true)
}

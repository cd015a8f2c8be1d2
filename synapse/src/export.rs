//! The command `export`: writes room files straight from the database.

use std::path::PathBuf;

use anyhow::bail;

use crate::database::DatabaseFlags;

/// The flags of the command `export`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportFlags {
    #[command(flatten)]
    database: DatabaseFlags,

    /// The folder to write the files into: one for each room.
    #[arg(long, env = "BACKSCROLL_SYNAPSE_EXPORT_TO", value_name = "DIR", default_value = ".")]
    to: PathBuf,

    /// Export all rooms.
    #[arg(long, env = "BACKSCROLL_SYNAPSE_EXPORT_ALL", conflicts_with = "rooms")]
    all: bool,

    /// The rooms.
    #[arg(required_unless_present = "all", value_name = "ROOM")]
    rooms: Vec<String>,
}

/// Runs the command. Returns whether all rooms were written.
pub(crate) async fn run(flags: ExportFlags) -> anyhow::Result<bool> {
    let ExportFlags { database, to, all, rooms } = flags;
    let _databases = database.into_databases()?;
    bail!("cannot export {rooms:?} (all: {all}) to {}: not implemented yet", to.display())
}

//! The flags that say where the store is.

use std::{ffi::OsStr, path::PathBuf};

use anyhow::Context as _;
use clap::{Arg, Command, Error, builder::TypedValueParser, error::ErrorKind};

use crate::store::{Place, PlaceError};

/// Where the store is.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "place", required = true, multiple = true)]
pub(super) struct StoreArgs {
    /// The directory of a store that sled keeps: the same as `--store sled:DIR`.
    #[arg(long, env = "BACKSCROLL_DATA_DIR", value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,

    /// The store: `sled:DIR` or `fjall:DIR`, a directory that one of these two libraries keeps, created
    /// if it does not exist, and used by one process only; or a PostgreSQL database that
    /// `backscroll prepare` has prepared, `postgres://USER@HOST/DATABASE`, which several processes may
    /// share. Used instead of `--data-dir` if both are given.
    #[arg(
        long,
        env = "BACKSCROLL_STORE",
        hide_env_values = true,
        value_name = "STORE",
        value_parser = PlaceParser
    )]
    pub(super) store: Option<Place>,
}

impl StoreArgs {
    /// Where the store is.
    ///
    /// # Errors
    /// If no flag says that.
    pub(super) fn place(self) -> anyhow::Result<Place> {
        let Self { data_dir, store } = self;
        store.or(data_dir.map(Place::Sled)).context("give --store or --data-dir")
    }
}

/// Parses where a store is. Its error does not quote the value, which may hold a password.
#[derive(Clone, Debug)]
pub(super) struct PlaceParser;

impl TypedValueParser for PlaceParser {
    type Value = Place;

    fn parse_ref(&self, cmd: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Place, Error> {
        let refused = |fault: &str| {
            let flag = arg.map(ToString::to_string).unwrap_or_default();
            Error::raw(ErrorKind::ValueValidation, format!("{flag}: {fault}\n")).with_cmd(cmd)
        };
        let text = value.to_str().ok_or_else(|| refused("it is not UTF-8"))?;
        text.parse().map_err(|fault: PlaceError| refused(&fault.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Flags {
        #[command(flatten)]
        store: StoreArgs,
    }

    fn parse(store: &str) -> Result<Flags, Error> {
        clap::Parser::try_parse_from(["program", "--store", store])
    }

    #[test]
    fn an_error_does_not_show_the_password() {
        let refused = parse("postgres://user:s3cret@host/base?sslmode=prefer").unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        let shown = format!("{refused} {refused:?}");
        assert!(shown.contains("sslmode must be verify-full"), "{shown}");
        assert!(!shown.contains("s3cret"), "{shown}");
        let parsed = parse("postgres://user:s3cret@host/base").unwrap();
        assert!(!format!("{parsed:?}").contains("s3cret"));
        assert_eq!(parsed.store.place().unwrap().to_string(), "postgres://user@host:5432/base");
    }

    #[test]
    fn a_place_that_is_no_store() {
        let refused = parse("mysql://host").unwrap_err();
        assert!(refused.to_string().contains("give sled:DIR"), "{refused}");
    }
}

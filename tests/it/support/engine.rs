//! The engine that the suites run on: sled, or the one that `BACKSCROLL_TEST_ENGINE` names.

use std::path::Path;

use backscroll::store::{Options, Place};

/// Whether the suites run on sled. Prints a line if not: the caller skips a test of sled's own files.
pub(crate) fn is_sled() -> bool {
    let is_sled = matches!(Options::small(Path::new("")).place, Place::Sled(_));
    if !is_sled {
        println!("skipped: this is about the files of sled");
    }
    is_sled
}

/// Whether each store of the suites is in files of its own. Prints a line if not: the caller skips a test
/// of such files, or of the volume that they are on.
pub(crate) fn is_in_files() -> bool {
    let is_in_files = !matches!(Options::small(Path::new("")).place, Place::Postgres(_));
    if !is_in_files {
        println!("skipped: this is about the files of a store");
    }
    is_in_files
}

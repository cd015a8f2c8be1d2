//! Where the stores of tests are.
//!
//! `BACKSCROLL_TEST_ENGINE` names the engine: sled if it is not set, `fjall`, or `postgres`. With
//! `postgres`, `BACKSCROLL_TEST_POSTGRES` is the URL of a database, in which each store has a schema of
//! its own.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
};

use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

use super::{Place, PostgresPlace, Preparation, prepare};

/// The directories of the stores whose schemas exist.
static PREPARED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The place of the store of a test that is, or would be, in a directory.
///
/// # Panics
/// When the variables name no engine, or no database that can be reached.
pub(super) fn of(dir: &Path) -> Place {
    let engine = env::var_os("BACKSCROLL_TEST_ENGINE").unwrap_or_default();
    assert!(["", "sled", "fjall", "postgres"].iter().any(|it| engine == *it), "no engine");
    match engine.to_str() {
        Some("fjall") => Place::Fjall(dir.to_owned()),
        Some("postgres") => Place::Postgres(schema_of(dir)),
        _ => Place::Sled(dir.to_owned()),
    }
}

/// The schema of a directory. It is made when it is asked for first.
fn schema_of(dir: &Path) -> PostgresPlace {
    let url = env::var_os("BACKSCROLL_TEST_POSTGRES").and_then(|it| it.into_string().ok());
    let url = url.expect("BACKSCROLL_TEST_POSTGRES is a URL");
    let hash = Sha256::digest(dir.as_os_str().as_encoded_bytes());
    let name: String = hash.iter().take(12).map(|it| format!("{it:02x}")).collect();
    let url = format!("{url}?options=-csearch_path%3Dt{name}");
    let place: PostgresPlace = url.parse().expect("BACKSCROLL_TEST_POSTGRES is a URL");
    let mut prepared = PREPARED.lock().unwrap_or_else(PoisonError::into_inner);
    if prepared.insert(dir.to_owned()) {
        let place = place.clone();
        // Callers may be within a runtime, which must not wait.
        let preparing = thread::spawn(move || {
            let runtime = Runtime::new().expect("a runtime can be made");
            runtime.block_on(prepare(&place, &Preparation::default()))
        });
        preparing.join().expect("it does not panic").expect("the schema can be made");
    }
    place
}

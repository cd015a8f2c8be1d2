//! sled's helper files: `conf`, which sled can write again, and `snap.*`, a summary of the log that
//! saves reading all of it. If either is damaged, sled does not open a log that is intact. So their
//! checksums are verified first, and damaged files are set aside.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    StoreError,
    durable::{at, sync},
};

/// The folder for files that are set aside, beside sled's folder.
const ASIDE: &str = "set-aside";
/// sled writes a `conf` of up to this length anew instead of reading it.
const NO_CONF_BYTES: usize = 8;
/// The length and the checksum at the end of a snapshot.
const SNAPSHOT_END_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;

/// Removes snapshots that a crash interrupted, and sets damaged files aside.
pub(super) fn check(data_dir: &Path) -> Result<(), StoreError> {
    let graph = data_dir.join("graph");
    let unfinished = |it: &PathBuf| it.extension().is_some_and(|it| it == "generating");
    for path in files(&graph)?.into_iter().filter(unfinished) {
        fs::remove_file(&path).map_err(at(&path))?;
    }
    let conf = graph.join("conf");
    match fs::read(&conf) {
        Ok(bytes) if bytes.len() > NO_CONF_BYTES && is_whole(&bytes, 0) => {}
        Ok(_) => set_aside(data_dir, &conf)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(&conf)(error)),
    }
    for snapshot in snapshots(&graph)? {
        let bytes = fs::read(&snapshot).map_err(at(&snapshot))?;
        if bytes.len() <= SNAPSHOT_END_BYTES
            || !is_whole(&bytes, SNAPSHOT_END_BYTES - CHECKSUM_BYTES)
        {
            // An older snapshot may refer to segments of the log that have been overwritten.
            return set_snapshots_aside(data_dir);
        }
    }
    Ok(())
}

/// Sets all snapshots aside, so that sled reads the whole log.
pub(super) fn set_snapshots_aside(data_dir: &Path) -> Result<(), StoreError> {
    let mut snapshots = snapshots(&data_dir.join("graph"))?;
    snapshots.drain(..).try_for_each(|it| set_aside(data_dir, &it))
}

/// The paths of the snapshots in sled's folder, the oldest first.
pub(super) fn snapshots(graph: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = files(graph)?;
    let is_snapshot = |it: &OsStr| it.as_encoded_bytes().starts_with(b"snap.");
    files.retain(|it| it.file_name().is_some_and(is_snapshot));
    files.sort();
    Ok(files)
}

/// The paths of the files in a folder; empty if the folder does not exist.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(folder))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at(folder))?;
        let path = entry.path();
        if entry.file_type().map_err(at(&path))?.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

/// Whether the checksum at the end is that of all bytes before it, except the last `between`.
fn is_whole(bytes: &[u8], between: usize) -> bool {
    let end = bytes.len().checked_sub(CHECKSUM_BYTES);
    let parts = end.and_then(|end| bytes.split_at_checked(end));
    let Some((before, checksum)) = parts else { return false };
    let before = before.get(..before.len().saturating_sub(between)).unwrap_or_default();
    #[expect(clippy::little_endian_bytes, reason = "sled writes its checksums so")]
    let expected = crc32fast::hash(before).to_le_bytes();
    checksum == expected
}

fn set_aside(data_dir: &Path, path: &Path) -> Result<(), StoreError> {
    let folder = data_dir.join(ASIDE);
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    let name = path.file_name().unwrap_or_default();
    let numbered = |number: u32| {
        let mut numbered = OsString::from(name);
        numbered.push(format!(".{number}"));
        folder.join(numbered)
    };
    let mut to = folder.join(name);
    for number in 1..u32::MAX {
        if !to.exists() {
            break;
        }
        to = numbered(number);
    }
    fs::rename(path, &to).map_err(at(path))?;
    sync(&folder)?;
    sync(data_dir)?;
    tracing::warn!(
        file = %path.display(), to = %to.display(),
        "a helper file was damaged and is set aside; the store is opened from its log, which takes a \
         little longer; the file can be deleted"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Options, Store, View as _};

    /// A store that was opened twice, so that it has a snapshot; and the snapshot.
    fn with_snapshot(dir: &Path) -> PathBuf {
        for user in ["@a:one.example", "@b:one.example"] {
            let store = Store::open(&Options::plain(dir.to_owned(), 16 << 20)).unwrap();
            store.set_erased(user, true).unwrap();
        }
        drop(Store::open(&Options::plain(dir.to_owned(), 16 << 20)).unwrap());
        snapshots(&dir.join("graph")).unwrap().pop().unwrap()
    }

    type Damage = fn(&mut Vec<u8>);

    const WAYS: [(&str, Damage); 12] = [
        ("empty", |it| it.clear()),
        ("one byte", |it| it.truncate(1)),
        ("shorter than its end", |it| it.truncate(11)),
        ("only as long as its end", |it| it.truncate(12)),
        ("cut in half", |it| it.truncate(it.len() / 2)),
        ("cut by one", |it| it.truncate(it.len() - 1)),
        ("longer", |it| it.push(0)),
        ("first byte", |it| it[0] ^= 1),
        ("a byte within", |it| {
            let middle = it.len() / 3;
            it[middle] ^= 0x80;
        }),
        ("checksum", |it| *it.last_mut().unwrap() ^= 1),
        ("zeros", |it| it.fill(0)),
        ("other bytes", |it| it.fill(0xa5)),
    ];

    #[test]
    fn no_damaged_snapshot_keeps_a_store_shut() {
        for (name, damage) in WAYS {
            let dir = tempfile::tempdir().unwrap();
            let snapshot = with_snapshot(dir.path());
            let mut bytes = fs::read(&snapshot).unwrap();
            damage(&mut bytes);
            fs::write(&snapshot, &bytes).unwrap();
            let store = Store::open(&Options::plain(dir.path().to_owned(), 16 << 20)).unwrap();
            assert_eq!(store.erased_users("", 9).len(), 2, "{name}");
            assert!(store.rooms(None, 1).unwrap().is_empty());
            assert!(!store.is_deleted("!room:one.example").unwrap());
            let aside = dir.path().join(ASIDE).join(snapshot.file_name().unwrap());
            assert_eq!(fs::read(aside).unwrap(), bytes, "{name}");
        }
    }

    #[test]
    fn a_damaged_configuration_keeps_no_store_shut() {
        for (name, damage) in WAYS {
            let dir = tempfile::tempdir().unwrap();
            with_snapshot(dir.path());
            let conf = dir.path().join("graph/conf");
            let mut bytes = fs::read(&conf).unwrap();
            damage(&mut bytes);
            fs::write(&conf, &bytes).unwrap();
            let store = Store::open(&Options::plain(dir.path().to_owned(), 16 << 20)).unwrap();
            assert_eq!(store.erased_users("", 9).len(), 2, "{name}");
        }
    }

    #[test]
    fn sound_files_stay_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let snapshot = with_snapshot(dir.path());
        check(dir.path()).unwrap();
        assert!(snapshot.exists() && dir.path().join("graph/conf").exists());
        assert!(!dir.path().join(ASIDE).exists());
    }
}

//! A copy of everything that sled may change while it opens a store that was not closed. sled ends
//! its log at the first part that it cannot read, and overwrites what is behind it: if that is
//! wrong, the rest could never be read again. So the bytes are kept until the store has been read,
//! and put back if it could not be.
//!
//! ```text
//! kept/db        the whole log, if the file system can share its blocks with the original
//! kept/segments  otherwise the segments of the log that an opening reads: offset and length of
//!                each (8 bytes, big-endian), and its bytes
//! kept/…         the other files of sled, and the mark, under their own names
//! kept/COMPLETE  written last: the length of the log (8 bytes, big-endian)
//! ```

use std::{
    cmp::Reverse,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{
    StoreError,
    durable::{BLOBS, DB, at, sync},
    helper_files::{files, snapshots},
    mark,
    volume::is_full,
};

const FOLDER: &str = "kept";
const SEGMENTS: &str = "segments";
const COMPLETE: &str = "COMPLETE";
/// The length of one of sled's segments, and of its header, in bytes.
const SEGMENT_BYTES: u64 = 512 << 10;
const HEADER_BYTES: usize = 20;
/// The most bytes of a log that are copied where blocks cannot be shared; the newest are.
const MAX_COPIED_BYTES: u64 = 2 << 30;

/// The copy of a log, and of the files beside it.
pub(super) struct LogCopy {
    graph: PathBuf,
    folder: PathBuf,
}

/// A segment of the log.
struct Segment {
    offset: u64,
    length: u64,
    /// Its number in the order of writing; 0 if its header cannot be read.
    number: u64,
}

impl LogCopy {
    fn of(data_dir: &Path) -> Self {
        Self { graph: data_dir.join("graph"), folder: data_dir.join(FOLDER) }
    }

    /// The copy of an opening that was interrupted itself; `None` if there is none. An incomplete
    /// copy is removed: sled had not begun to open the log.
    pub(super) fn find(data_dir: &Path) -> Result<Option<Self>, StoreError> {
        let it = Self::of(data_dir);
        if it.folder.join(COMPLETE).exists() {
            return Ok(Some(it));
        }
        it.discard()?;
        Ok(None)
    }

    /// Makes a copy; `None` if there is no log yet, or not enough space.
    pub(super) fn make(data_dir: &Path, free_bytes: u64) -> Result<Option<Self>, StoreError> {
        let it = Self::of(data_dir);
        let db = it.graph.join(DB);
        if !db.exists() {
            return Ok(None);
        }
        match it.copy(free_bytes / 2) {
            Ok(()) => Ok(Some(it)),
            Err(StoreError::File { path, source }) if is_full(&source) => {
                tracing::warn!(
                    path = %path.display(),
                    "the store was not closed, and there is no space for a copy of its log while it \
                     is opened"
                );
                it.discard()?;
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    fn copy(&self, max_bytes: u64) -> Result<(), StoreError> {
        let blobs = self.folder.join(BLOBS);
        fs::create_dir_all(&blobs).map_err(at(&blobs))?;
        for path in self.helpers()?.into_iter().chain(self.mark()) {
            self.link(&path, &self.folder)?;
        }
        for path in files(&self.graph.join(BLOBS))? {
            self.link(&path, &blobs)?;
        }
        let db = self.graph.join(DB);
        let log = File::open(&db).map_err(at(&db))?;
        let bytes = log.metadata().map_err(at(&db))?.len();
        let whole = self.folder.join(DB);
        if !share_blocks(&log, &whole) {
            self.copy_segments(&log, bytes, max_bytes.min(MAX_COPIED_BYTES))?;
        }
        sync(&blobs)?;
        sync(&self.folder)?;
        let new = self.folder.join("new");
        let complete = self.folder.join(COMPLETE);
        write_synced(&new, &bytes.to_be_bytes())?;
        fs::rename(&new, &complete).map_err(at(&complete))?;
        sync(&self.folder)?;
        self.sync_parent()
    }

    /// Copies the segments that sled reads when it opens the log: those since its last snapshot.
    fn copy_segments(&self, log: &File, bytes: u64, max_bytes: u64) -> Result<(), StoreError> {
        let db = self.graph.join(DB);
        let from = snapshot_number(&self.graph)?;
        let mut segments = Vec::new();
        let mut offset = 0;
        while offset < bytes {
            let number = number_of(log, offset).map_err(at(&db))?;
            let length = SEGMENT_BYTES.min(bytes - offset);
            // sled numbers no segment below its offset, so this header cannot be trusted.
            if number < offset || number.saturating_add(SEGMENT_BYTES) > from {
                segments.push(Segment { offset, length, number });
            }
            offset += SEGMENT_BYTES;
        }
        segments.sort_by_key(|it| Reverse(it.number));
        let path = self.folder.join(SEGMENTS);
        let mut out = BufWriter::new(File::create(&path).map_err(at(&path))?);
        let mut buffer = Vec::new();
        let mut copied = 0;
        for Segment { offset, length, .. } in segments {
            copied += length;
            if copied > max_bytes {
                tracing::warn!(max_bytes, "only the newest part of the log is copied");
                break;
            }
            buffer.resize(usize::try_from(length).expect("a segment fits into memory"), 0);
            log.read_exact_at(&mut buffer, offset).map_err(at(&db))?;
            let parts = [&offset.to_be_bytes()[..], &length.to_be_bytes()[..], &buffer[..]];
            parts.iter().try_for_each(|it| out.write_all(it)).map_err(at(&path))?;
        }
        let out = out.into_inner().map_err(|error| at(&path)(error.into_error()))?;
        out.sync_all().map_err(at(&path))
    }

    /// Puts sled's files back as they were copied. After an error it can be called again.
    pub(super) fn put_back(&self) -> Result<(), StoreError> {
        let db = self.graph.join(DB);
        let log = File::options().write(true).create(true).truncate(false).open(&db);
        let log = log.map_err(at(&db))?;
        let whole = self.folder.join(DB);
        if whole.exists() {
            let mut from = File::open(&whole).map_err(at(&whole))?;
            io::copy(&mut from, &mut &log).map_err(at(&db))?;
        } else {
            self.put_segments_back(&log)?;
        }
        let complete = self.folder.join(COMPLETE);
        let bytes = fs::read(&complete).map_err(at(&complete))?;
        let bytes: [u8; 8] = bytes.try_into().map_err(|_| cut_off(&complete))?;
        log.set_len(u64::from_be_bytes(bytes)).map_err(at(&db))?;
        log.sync_all().map_err(at(&db))?;
        let blobs = self.graph.join(BLOBS);
        for (now, kept, folder) in [
            (self.helpers()?, helpers_of(&self.folder)?, &self.graph),
            (files(&blobs)?, files(&self.folder.join(BLOBS))?, &blobs),
        ] {
            now.iter().try_for_each(|it| fs::remove_file(it).map_err(at(it)))?;
            kept.iter().try_for_each(|it| self.link(it, folder))?;
            sync(folder)?;
        }
        // The opening may have counted more flushes than the log holds now.
        if let Some(mark) = self.mark() {
            fs::remove_file(&mark).map_err(at(&mark))?;
        }
        let mark = self.folder.join(mark::FILE);
        if let (true, Some(data_dir)) = (mark.exists(), self.folder.parent()) {
            self.link(&mark, data_dir)?;
        }
        self.sync_parent()
    }

    fn put_segments_back(&self, log: &File) -> Result<(), StoreError> {
        let db = self.graph.join(DB);
        let path = self.folder.join(SEGMENTS);
        let file = File::open(&path).map_err(at(&path))?;
        let mut left = file.metadata().map_err(at(&path))?.len();
        let mut buffer = Vec::new();
        let mut from = BufReader::new(file);
        while left > 0 {
            let mut numbers = [[0; 8]; 2];
            numbers.iter_mut().try_for_each(|it| from.read_exact(it)).map_err(at(&path))?;
            let [offset, length] = numbers.map(u64::from_be_bytes);
            buffer.resize(usize::try_from(length).map_err(|_| cut_off(&path))?, 0);
            from.read_exact(&mut buffer).map_err(at(&path))?;
            log.write_all_at(&buffer, offset).map_err(at(&db))?;
            left = left.saturating_sub(16).saturating_sub(length);
        }
        Ok(())
    }

    /// Removes the copy; first the file that makes it complete.
    pub(super) fn discard(&self) -> Result<(), StoreError> {
        if !self.folder.exists() {
            return Ok(());
        }
        let complete = self.folder.join(COMPLETE);
        match fs::remove_file(&complete) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at(&complete)(error));
            }
            _ => sync(&self.folder)?,
        }
        fs::remove_dir_all(&self.folder).map_err(at(&self.folder))?;
        self.sync_parent()
    }

    /// The path of the mark beside sled's folder; `None` if it does not exist.
    fn mark(&self) -> Option<PathBuf> {
        let mark = self.folder.parent()?.join(mark::FILE);
        mark.exists().then_some(mark)
    }

    fn sync_parent(&self) -> Result<(), StoreError> {
        self.folder.parent().map_or(Ok(()), sync)
    }

    /// The files of sled that are neither the log nor blobs.
    fn helpers(&self) -> Result<Vec<PathBuf>, StoreError> {
        helpers_of(&self.graph)
    }

    /// Makes a file appear in another folder, under the same name: as a hard link, since sled changes
    /// none of these files in place, or as a copy where there are no links.
    fn link(&self, path: &Path, folder: &Path) -> Result<(), StoreError> {
        let to = folder.join(path.file_name().unwrap_or_default());
        match fs::hard_link(path, &to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(_) => {
                fs::copy(path, &to).map_err(at(&to))?;
                sync(&to)
            }
            linked => linked.map_err(at(&to)),
        }
    }
}

fn helpers_of(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = snapshots(folder)?;
    files.extend(Some(folder.join("conf")).filter(|it| it.exists()));
    Ok(files)
}

/// The position in the log at which the last snapshot ends, from its file name; 0 without one.
fn snapshot_number(graph: &Path) -> Result<u64, StoreError> {
    let last = snapshots(graph)?.pop();
    let number = last.as_deref().and_then(Path::extension).and_then(|it| it.to_str());
    Ok(number.and_then(|it| u64::from_str_radix(it, 16).ok()).unwrap_or(0))
}

/// The number in a segment's header; 0 if the file ends before.
fn number_of(log: &File, offset: u64) -> io::Result<u64> {
    let mut header = [0; HEADER_BYTES];
    match log.read_exact_at(&mut header, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
        read => read?,
    }
    let [_, _, _, _, a, b, c, d, e, f, g, h, ..] = header;
    #[expect(clippy::little_endian_bytes, reason = "sled writes its numbers so")]
    let number = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    Ok(number ^ (u64::MAX >> 1))
}

/// Makes a copy that shares all blocks with the original. Returns whether the file system can.
#[cfg(target_os = "linux")]
fn share_blocks(from: &File, to: &Path) -> bool {
    let made = File::create(to).and_then(|to| Ok(rustix::fs::ioctl_ficlone(&to, from)?));
    if made.is_err() {
        drop(fs::remove_file(to));
    }
    made.is_ok()
}

#[cfg(not(target_os = "linux"))]
fn share_blocks(_: &File, _: &Path) -> bool {
    false
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = File::create(path).map_err(at(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(path))
}

fn cut_off(path: &Path) -> StoreError {
    at(path)(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::{FetchedKeys, Options, Store};

    fn everything(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let paths = files(folder).unwrap().into_iter().chain(files(&folder.join(BLOBS)).unwrap());
        paths.map(|it| (it.clone(), fs::read(it).unwrap())).collect()
    }

    #[test]
    fn a_copy_is_put_back_as_it_was_made() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            let store = Store::open(&Options::plain(dir.path().to_owned(), 16 << 20)).unwrap();
            for number in 0..100 {
                let large = FetchedKeys { fetched_ts: 0, answer: vec![number; 40 << 10] };
                store.put_server_keys(&format!("{number}.example"), &large, |_| true).unwrap();
            }
        }
        let graph = dir.path().join("graph");
        assert!(!files(&graph.join(BLOBS)).unwrap().is_empty(), "large leaves make blobs");
        let before = everything(&graph);
        let copy = LogCopy::make(dir.path(), u64::MAX).unwrap().unwrap();
        // As an opening that fails may do.
        let db = graph.join(DB);
        let log = File::options().write(true).open(&db).unwrap();
        let length = log.metadata().unwrap().len();
        let last = length / SEGMENT_BYTES * SEGMENT_BYTES;
        log.write_all_at(&[0xff; 1 << 10], last + 100).unwrap();
        log.set_len(length + SEGMENT_BYTES).unwrap();
        let blob = files(&graph.join(BLOBS)).unwrap().remove(0);
        fs::remove_file(blob).unwrap();
        fs::write(graph.join(BLOBS).join("99999999"), "new").unwrap();
        snapshots(&graph).unwrap().iter().for_each(|it| fs::remove_file(it).unwrap());
        fs::write(graph.join("snap.FFFF"), "new").unwrap();
        assert!(everything(&graph) != before);

        LogCopy::find(dir.path()).unwrap().unwrap().put_back().unwrap();
        assert!(everything(&graph) == before);
        copy.discard().unwrap();
        assert!(LogCopy::find(dir.path()).unwrap().is_none());
        drop(Store::open(&Options::plain(dir.path().to_owned(), 16 << 20)).unwrap());
    }

    #[test]
    fn an_incomplete_copy_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(FOLDER).join(BLOBS)).unwrap();
        fs::write(dir.path().join(FOLDER).join(SEGMENTS), "half").unwrap();
        assert!(LogCopy::find(dir.path()).unwrap().is_none());
        assert!(!dir.path().join(FOLDER).exists());
    }
}

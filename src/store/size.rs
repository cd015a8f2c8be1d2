//! How large the store is, and how much of it waits for something.

use std::path::Path;

use super::{Store, StoreError, durable::at, keys};

/// Bytes left for anybody on the volume of a directory.
pub(super) fn free_bytes(data_dir: &Path) -> Result<u64, StoreError> {
    let volume = rustix::fs::statvfs(data_dir).map_err(|error| at(data_dir)(error.into()))?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}

impl Store {
    /// Bytes on disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn bytes(&self) -> Result<u64, StoreError> {
        Ok(self.tree.size_on_disk()?)
    }

    /// Bytes left on the volume for anybody.
    ///
    /// # Errors
    /// When the volume cannot be asked.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        free_bytes(&self.data_dir)
    }

    /// References to events that are not placed, in all rooms; counted up to `most`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn count_gaps(&self, most: usize) -> Result<u64, StoreError> {
        self.count(&keys::all_gaps(), most)
    }

    /// Events whose state waits for that of another, in all rooms; counted up to `most`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn count_waiting(&self, most: usize) -> Result<u64, StoreError> {
        self.count(&keys::all_waiting(), most)
    }

    fn count(&self, prefix: &[u8], most: usize) -> Result<u64, StoreError> {
        let mut count = 0;
        for key in self.tree.scan_prefix(prefix).keys().take(most) {
            key?;
            count += 1;
        }
        Ok(count)
    }
}

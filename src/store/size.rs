//! How large the store is, and how much of it waits for something.

use super::{Store, StoreError, keys};

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
        let volume = rustix::fs::statvfs(&self.data_dir).map_err(|error| StoreError::File {
            path: self.data_dir.clone(),
            source: error.into(),
        })?;
        Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
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

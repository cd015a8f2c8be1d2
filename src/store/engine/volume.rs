//! The volume that holds a directory.

use std::{io, path::Path};

use super::{StoreError, durable::at};

/// Bytes that an unprivileged process may still write to the volume of a directory.
pub(super) fn free_bytes(data_dir: &Path) -> Result<u64, StoreError> {
    let volume = rustix::fs::statvfs(data_dir).map_err(|error| at(data_dir)(error.into()))?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}

/// Whether an error says that the volume or a quota is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

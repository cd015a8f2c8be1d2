//! The inode flags with which a file system makes each write durable before it returns.

#[cfg(not(target_os = "linux"))]
use std::{io, path::Path};

use super::Durability;

/// The outcome of setting the flags on a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlagsSet {
    /// It had the flags before.
    Before,
    /// It has the flags now.
    Now,
    /// The file system does not keep them, or not for this user.
    NotKept,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{fs::File, io, path::Path};

    use rustix::fs::{IFlags, fstatfs, ioctl_getflags, ioctl_setflags};

    use super::{Durability, FlagsSet};

    /// The magic numbers of file systems that are known to obey the flags: ext4, XFS, Btrfs, F2FS.
    /// Others may keep the flags and ignore them.
    const OBEYING: [u32; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010];

    /// The best durability on this system.
    pub(in super::super) fn wanted() -> Durability {
        Durability::FileSystem
    }

    /// Sets the flags on a file or folder and reads them back.
    pub(in super::super) fn set(path: &Path) -> io::Result<FlagsSet> {
        let file = File::open(path)?;
        let kind = fstatfs(&file)?.f_type;
        if !OBEYING.iter().any(|it| i128::from(kind) & 0xffff_ffff == i128::from(*it)) {
            return Ok(FlagsSet::NotKept);
        }
        let Ok(before) = ioctl_getflags(&file) else { return Ok(FlagsSet::NotKept) };
        let sync = before | IFlags::SYNC;
        let wanted = if file.metadata()?.is_dir() { sync | IFlags::DIRSYNC } else { sync };
        if before == wanted {
            return Ok(FlagsSet::Before);
        }
        // XFS has no flag for names; there, each write of a file makes the names that were changed
        // before it durable as well.
        if ioctl_setflags(&file, wanted).is_err() && ioctl_setflags(&file, sync).is_err() {
            return Ok(FlagsSet::NotKept);
        }
        let is_kept = ioctl_getflags(&file).is_ok_and(|it| it.contains(IFlags::SYNC));
        Ok(match is_kept {
            true if before.contains(IFlags::SYNC) => FlagsSet::Before,
            true => FlagsSet::Now,
            false => FlagsSet::NotKept,
        })
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::{set, wanted};

/// The best durability on this system: sled itself syncs each write.
#[cfg(not(target_os = "linux"))]
pub(super) fn wanted() -> Durability {
    Durability::Sled
}

/// Does nothing: other systems than Linux have no such flags.
#[cfg(not(target_os = "linux"))]
pub(super) fn set(_: &Path) -> io::Result<FlagsSet> {
    Ok(FlagsSet::NotKept)
}

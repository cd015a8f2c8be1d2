//! A service whose file operations are recorded, with preloaded libraries that change the results of
//! the C library.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::FLAGS;
use crate::support::process::Process;

/// How the file system treats the inode flags S and D, as the service sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flags {
    /// Like ext4: each write and each change of a name is durable when the call returns.
    Heeded,
    /// Like XFS: the flags have no effect on names.
    Files,
    /// Like tmpfs: the flags have no effect.
    None,
}

impl Flags {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Heeded => "heeded",
            Self::Files => "files",
            Self::None => "none",
        }
    }
}

/// Builds a library of `tests/power` into a folder; `None` without a C compiler, or on a system other
/// than Linux.
pub(crate) fn library(name: &str, folder: &Path) -> Option<PathBuf> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/power/{name}.c"));
    let library = folder.join(format!("{name}.so"));
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source)
        .args(["-ldl", "-lpthread"]);
    match cc.output() {
        Err(_) => None,
        Ok(built) => {
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            Some(library)
        }
    }
}

/// The parameters of a recording.
pub(crate) struct Recorder<'a> {
    pub(crate) preloaded: &'a Path,
    pub(crate) flags: Flags,
    /// How long a sync takes, in microseconds.
    pub(crate) delay_us: u64,
}

/// A recording.
#[derive(Clone)]
pub(crate) struct Recording {
    counter: Option<PathBuf>,
}

impl Recorder<'_> {
    /// Starts a service that is recorded into a file, and waits until it serves.
    pub(crate) fn start(&self, data_dir: &Path, log: &Path) -> (Recording, Process) {
        let counter = PathBuf::from(format!("{}.n", log.display()));
        for path in [log, &counter] {
            drop(fs::remove_file(path));
        }
        let service = Process::start_with(data_dir, &FLAGS, |command| {
            command.env("RECORD_DIR", data_dir).env("RECORD_LOG", log);
            command.env("RECORD_FLAGS", self.flags.name());
            command.env("RECORD_DELAY", self.delay_us.to_string());
            command.env("LD_PRELOAD", self.preloaded);
        });
        (Recording { counter: Some(counter) }, service)
    }
}

impl Recording {
    /// `None` if the real flags are used.
    pub(crate) fn none() -> Self {
        Self { counter: None }
    }

    /// The number of records so far: every earlier operation has a lower number.
    pub(crate) fn now(&self) -> usize {
        let Some(counter) = &self.counter else { return 0 };
        let bytes = fs::read(counter).unwrap();
        let number = bytes.iter().rev().fold(0_u64, |sum, it| sum << 8 | u64::from(*it));
        usize::try_from(number).unwrap()
    }
}

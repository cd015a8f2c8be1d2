//! Where PostgreSQL's programs are, and as whom they run.

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A folder in memory needs this much free space, in KiB.
const MIN_MEMORY_KIB: u64 = 4 << 20;

/// PostgreSQL's programs.
#[derive(Clone, Debug)]
pub(super) struct Installed {
    bin: PathBuf,
    /// The user as whom they run, if not as our own.
    pub(super) user: Option<OtherUser>,
}

/// The user as whom a server runs: it refuses to run as root.
#[derive(Clone, Copy, Debug)]
pub(super) struct OtherUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Installed {
    /// Finds the newest version. `None`, with a message, if there is none.
    ///
    /// # Panics
    /// When there is none and `BACKSCROLL_POSTGRES` is `required`.
    pub(super) fn find() -> Option<Self> {
        let found = programs();
        if found.is_none() {
            assert!(!is_required(), "PostgreSQL (initdb) is not installed, and it is required");
            eprintln!("skipped: PostgreSQL (initdb) is not installed");
        }
        Some(Self { bin: found?, user: other_user() })
    }

    /// A command that runs one of the programs.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env_clear().current_dir("/").stdin(Stdio::null());
        if let Some(OtherUser { uid, gid }) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// Whether tests fail where PostgreSQL or PgBouncer is not installed.
pub(super) fn is_required() -> bool {
    env::var_os("BACKSCROLL_POSTGRES").is_some_and(|it| it == "required")
}

/// The folder for the folders of servers: in memory if there is room, because a server that waits for
/// the disk is slow, and tests kill processes but not the machine.
pub(super) fn folder() -> &'static Path {
    let memory = Path::new("/dev/shm");
    let asked = Command::new("df").args(["--output=avail", "-k"]).arg(memory).output();
    let free = asked.ok().and_then(|it| {
        let text = String::from_utf8(it.stdout).ok()?;
        text.split_whitespace().last()?.parse::<u64>().ok()
    });
    if free >= Some(MIN_MEMORY_KIB) { memory } else { Path::new("/tmp") }
}

/// The folder with the programs of the newest version that is installed.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut versions: Vec<PathBuf> = versions.map(|it| it.unwrap().path().join("bin")).collect();
    versions.retain(|it| it.join("initdb").exists());
    versions.sort();
    versions.pop()
}

/// The user `postgres`, if we are root.
fn other_user() -> Option<OtherUser> {
    let own = Command::new("id").arg("-u").output().unwrap();
    if own.stdout.trim_ascii() != b"0" {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|it| it.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2).map(|it| it.parse().unwrap());
    Some(OtherUser { uid: fields.next().unwrap(), gid: fields.next().unwrap() })
}

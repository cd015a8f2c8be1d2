//! The programs that are measured, in processes of their own, so that the time and the memory
//! they take are theirs; and what the kernel says about a process.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use crate::rooms;

/// Which program the benchmark's own binary is to be.
pub(crate) const ROLE: &str = "BACKSCROLL_BENCH_ROLE";

/// A server in a process of its own. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts a program that logs the address it listens on, and waits until it does.
    fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let to = File::create(log)?;
        command.stdin(Stdio::null()).stdout(to.try_clone()?).stderr(to);
        let mut child = command.spawn()?;
        let begun = Instant::now();
        loop {
            let said = fs::read_to_string(log)?;
            if let Some(address) = address_in(&said) {
                return Ok(Self { child, address });
            }
            ensure!(child.try_wait()?.is_none(), "it ended at once:\n{said}");
            if begun.elapsed() > Duration::from_secs(120) {
                drop(child.kill());
                bail!("it does not listen:\n{said}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The history service over a folder.
    pub(crate) fn history(folder: &Path, cache_mib: u64) -> anyhow::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll"));
        command
            .env_clear()
            .args(["serve", "--listen", "127.0.0.1:0", "--reserved-mib", "16", "--data-dir"])
            .arg(folder.join("data"))
            .args(["--cache-mib", &cache_mib.to_string()]);
        Self::start(command, &folder.join("history.log"))
    }

    /// The gateway in front of it.
    pub(crate) fn gateway(
        folder: &Path,
        history: &Self,
        built: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let keys = folder.join("keys.json");
        let answer = rooms::key_answer(rooms::ASKING);
        fs::write(&keys, serde_json::json!({rooms::ASKING: answer}).to_string())?;
        let history = format!("http://{}", history.address);
        let program = built.map_or_else(build_gateway, |it| Ok(it.to_owned()))?;
        let mut command = Command::new(program);
        command
            .env_clear()
            .args(["--server-name", rooms::OURS, "--listen", "127.0.0.1:0"])
            // One server asks for all of them.
            .args(["--fetch-keys", "false", "--server-concurrency", "1000"])
            .args(["--server-rate", "1000000"])
            .args(["--history", &history, "--pinned-keys"])
            .arg(keys);
        Self::start(command, &folder.join("gateway.log"))
    }

    /// The limit: see `limit.rs`.
    pub(crate) fn limit(folder: &Path, answers: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env_clear().env(ROLE, answers);
        Self::start(command, &folder.join("limit.log"))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id().to_string())
    }

    /// Asks it to stop, and waits.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().to_string();
        ensure!(Command::new("kill").args(["-TERM", &pid]).status()?.success());
        ensure!(self.child.wait()?.success(), "it did not stop well");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, perhaps.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The last word of a line that tells of an address.
fn address_in(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|it| it.contains("serving") || it.contains("listening on"))?;
    let words = line.split([' ', '=', '\u{1b}']);
    words.rev().find_map(|it| it.trim_start_matches("[0m").parse().ok())
}

/// The gateway is a package of its own, which `cargo bench` has not built as a program; the tests
/// of the workspace have.
fn build_gateway() -> anyhow::Result<PathBuf> {
    let program = Path::new(env!("CARGO_BIN_EXE_backscroll")).with_file_name("backscroll-gateway");
    if cfg!(debug_assertions) {
        ensure!(program.exists(), "build the gateway first: cargo build --workspace");
        return Ok(program);
    }
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "-p", "backscroll-gateway"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    ensure!(built.success(), "the gateway does not build");
    Ok(program)
}

/// A process, as the kernel sees it.
#[derive(Clone)]
pub(crate) struct Process(String);

impl Process {
    /// Ourselves.
    pub(crate) fn this() -> Self {
        Self("self".to_owned())
    }

    /// The processor time it took so far, to a hundredth of a second.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The name, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("no name")?;
        let ticks = |nth| fields.split_whitespace().nth(nth)?.parse::<u64>().ok();
        let (user, system) = ticks(11).zip(ticks(12)).context("no times")?;
        Ok(Duration::from_millis((user + system) * 10))
    }

    /// Resident memory, in KiB: now, and at its highest.
    pub(crate) fn memory_kib(&self) -> anyhow::Result<(u32, u32)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let field = |name| {
            let line = status.lines().find_map(|it| it.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        field("VmRSS:").zip(field("VmHWM:")).context("no memory")
    }
}

/// The bytes of all files in a folder.
pub(crate) fn disk_bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.metadata()?;
        bytes += if kind.is_dir() { disk_bytes(&entry.path())? } else { kind.blocks() * 512 };
    }
    Ok(bytes)
}

/// Copies a folder.
pub(crate) fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.metadata()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

//! The measured programs, in processes of their own, so that their time and memory can be read from
//! the kernel.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use backscroll_testkit::process::Program;

use backscroll::store::Options;

use crate::rooms;

/// The variable that makes the benchmark's own binary the limit: the file with its responses.
pub(crate) const LIMIT_VARIABLE: &str = "BACKSCROLL_BENCH_LIMIT";

/// A server in a process of its own. Killed when dropped.
pub(crate) struct Server(Program);

impl Server {
    /// The history service over a folder.
    pub(crate) fn history(folder: &Path, cache_mib: u64) -> Self {
        // Of the engine that `BACKSCROLL_TEST_ENGINE` names.
        let place = Options::small(&folder.join("data")).place.to_string();
        Self::history_over(&place, cache_mib, &folder.join("history.log"))
    }

    /// The history service over any store.
    pub(crate) fn history_over(place: &str, cache_mib: u64, log: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll"));
        command
            .env_clear()
            .args(["serve", "--listen", "127.0.0.1:0", "--reserved-mib", "16", "--store", place])
            .args(["--cache-mib", &cache_mib.to_string()]);
        Self(Program::start_with_log_file(command, log))
    }

    /// Makes the tables of a database.
    pub(crate) fn prepare(url: &str) -> anyhow::Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll"));
        let prepared = command.env_clear().args(["prepare", "--store", url]).status()?;
        ensure!(prepared.success(), "the database cannot be prepared");
        Ok(())
    }

    /// The gateway in front of it; `built` names a binary to use instead of the current code.
    pub(crate) fn gateway(
        folder: &Path,
        history: &Self,
        built: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let keys = folder.join("keys.json");
        let answer = rooms::signer(rooms::ASKING).key_answer();
        fs::write(&keys, serde_json::json!({rooms::ASKING: answer}).to_string())?;
        let program = built.map_or_else(build_gateway, |it| Ok(it.to_owned()))?;
        let mut command = Command::new(program);
        command
            .env_clear()
            .args(["--server-name", rooms::OURS, "--listen", "127.0.0.1:0"])
            // One server sends all requests: its limits must not bound the measurement.
            .args(["--fetch-keys", "false", "--server-concurrency", "1000"])
            .args(["--server-rate", "1000000"])
            .args(["--history", &history.url(), "--pinned-keys"])
            .arg(keys);
        Ok(Self(Program::start_with_log_file(command, &folder.join("gateway.log"))))
    }

    /// The limit, see `limit.rs`, with the responses of a file.
    pub(crate) fn limit(folder: &Path, responses: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.env_clear().env(LIMIT_VARIABLE, responses);
        Ok(Self(Program::start_with_log_file(command, &folder.join("limit.log"))))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub(crate) fn url(&self) -> String {
        self.0.url()
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.0.child.id().to_string())
    }

    /// Asks the server to stop, and waits until it has ended.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        let ended = self.0.stop();
        ensure!(ended.code == Some(0), "it ended with {:?}:\n{}", ended.code, ended.log);
        Ok(())
    }
}

/// Builds the gateway, which is a package of its own: `cargo bench` does not build its program.
/// In a debug build the tests of the workspace have built it.
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

/// A process, as the kernel accounts for it.
#[derive(Clone)]
pub(crate) struct Process(String);

/// The resident memory of a process, in KiB.
#[derive(Clone, Copy)]
pub(crate) struct ResidentKib {
    pub(crate) now: u32,
    pub(crate) highest: u32,
}

impl Process {
    /// This process.
    pub(crate) fn this() -> Self {
        Self("self".to_owned())
    }

    /// The processor time that the process has used, to a hundredth of a second.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The name, in parentheses, may contain anything.
        let (_, fields) = stat.rsplit_once(')').context("no name")?;
        let ticks = |nth| fields.split_whitespace().nth(nth)?.parse::<u64>().ok();
        let (user, system) = ticks(11).zip(ticks(12)).context("no times")?;
        Ok(Duration::from_millis((user + system) * 10))
    }

    /// The resident memory of the process.
    pub(crate) fn memory(&self) -> anyhow::Result<ResidentKib> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let field = |name| -> anyhow::Result<u32> {
            let line = status.lines().find_map(|it| it.strip_prefix(name)).context("no field")?;
            Ok(line.split_whitespace().next().context("no figure")?.parse()?)
        };
        Ok(ResidentKib { now: field("VmRSS:")?, highest: field("VmHWM:")? })
    }
}

/// The processor time that some processes have used together.
pub(crate) fn cpu(processes: &[Process]) -> anyhow::Result<Duration> {
    processes.iter().map(Process::cpu).sum()
}

//! PostgreSQL servers for tests: each in a temporary folder, reached by a socket in that folder or by
//! a port of this machine. A standby can be made and promoted, and servers can be killed.
//!
//! A server ends, and its folder is removed, when it is dropped, and also when the process that
//! started it dies.

mod bouncer;
mod guard;
mod installed;

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs::{self, Permissions},
    io::Write as _,
    net::{SocketAddr, TcpListener},
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tokio_postgres::{Client, NoTls};

pub use self::bouncer::Bouncer;
use self::{guard::Guard, installed::Installed};
use crate::within::within;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// The ports that are tried: below those that the system gives to programs that ask for any port.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;

/// What a server has that is not the default.
///
/// The server does not wait for the disk, unless a setting says so: `fsync` is off.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Lines of `postgresql.conf`: a name and a value each.
    settings: Vec<(String, String)>,
    /// Files of the data folder.
    files: Vec<(String, Vec<u8>)>,
}

impl Setup {
    /// The settings that a store demands: each commit waits for the disk.
    #[must_use]
    pub fn durable() -> Self {
        Self::default().with("fsync", "on")
    }

    /// With one more setting of `postgresql.conf`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With one more file of the data folder that only the server may read, such as a certificate,
    /// or a `pg_hba.conf` instead of the one that trusts everybody.
    #[must_use]
    pub fn with_file(mut self, name: &str, content: &[u8]) -> Self {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }
}

/// A PostgreSQL server. The role `owner` may do everything, and whoever connects is trusted.
#[derive(Debug)]
pub struct Postgres {
    dir: PathBuf,
    port: u16,
    installed: Installed,
    /// `None` while the server is stopped.
    running: Option<Guard>,
}

impl Postgres {
    /// Starts a server that does not wait for the disk. `None`, with a message, if PostgreSQL is not
    /// installed.
    ///
    /// # Panics
    /// When PostgreSQL is not installed and `BACKSCROLL_POSTGRES` is `required`.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(&Setup::default())
    }

    /// Starts a server with settings and files.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_with(setup: &Setup) -> Option<Self> {
        let mut postgres = Self::in_new_folder(Installed::find()?);
        let mut initdb = postgres.installed.command("initdb");
        initdb.args(["-U", "owner", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]);
        finish(initdb.arg(postgres.data()));
        // Its shared memory is in its folder, so that nothing is left of a server that was killed.
        let usual =
            [("fsync", "off"), ("max_connections", "200"), ("dynamic_shared_memory_type", "mmap")];
        postgres.configure(&usual);
        let settings = setup.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        postgres.configure(&settings.collect::<Vec<_>>());
        for (name, content) in &setup.files {
            postgres.write(name, content);
        }
        postgres.resume();
        Some(postgres)
    }

    /// Starts a standby that follows this server, and that this server knows as `name`. Commits wait
    /// for it if the setting `synchronous_standby_names` of this server has that name.
    #[must_use]
    pub fn standby(&self, name: &str) -> Self {
        let mut standby = Self::in_new_folder(self.installed.clone());
        let mut copy = self.installed.command("pg_basebackup");
        copy.args(["-U", "owner", "-X", "stream", "-c", "fast", "--no-sync", "-h"]);
        copy.arg(&self.dir).args(["-p", &self.port.to_string(), "-D"]).arg(standby.data());
        finish(&mut copy);
        standby.write("standby.signal", b"");
        // What the primary was told by ALTER SYSTEM would win over the lines that follow.
        standby.write("postgresql.auto.conf", b"");
        let (dir, port) = (self.dir.display(), self.port);
        let primary = format!("host={dir} port={port} user=owner application_name={name}");
        standby.configure(&[("primary_conninfo", &primary), ("synchronous_standby_names", "")]);
        standby.resume();
        standby
    }

    /// Makes a primary of a standby, and waits until it is one.
    pub fn promote(&self) {
        let seconds = PATIENCE.as_secs().to_string();
        let mut promote = self.installed.command("pg_ctl");
        finish(promote.args(["promote", "-w", "-t", &seconds, "-D"]).arg(self.data()));
    }

    /// Stops the server in the middle of everything. What it has written stays.
    pub fn stop(&mut self) {
        // Dropping the guard does it.
        self.running = None;
    }

    /// Kills the server's processes with SIGKILL, the first one first. Those that serve clients would
    /// answer for a moment after it.
    pub fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let lines = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let first = lines.lines().next().unwrap();
        let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children"));
        kill(first);
        let children = children.unwrap_or_default();
        if !children.trim().is_empty() {
            // Some may have ended already.
            let mut kill = Command::new("kill");
            drop(
                kill.arg("-KILL").args(children.split_whitespace()).stderr(Stdio::null()).status(),
            );
        }
        running.wait();
    }

    /// Kills with SIGKILL one of the processes that serve clients; `choose` gets their number and
    /// returns which. The server then ends all others and recovers. `false` if there is none.
    pub fn kill_backend(&self, choose: impl FnOnce(usize) -> usize) -> bool {
        let query = "select pid from pg_stat_activity \
            where backend_type = 'client backend' and pid <> pg_backend_pid()";
        let pids = self.sql("postgres", query);
        let pids: Vec<&str> = pids.split_whitespace().collect();
        if !pids.is_empty() {
            kill(pids[choose(pids.len())]);
        }
        !pids.is_empty()
    }

    /// Starts the server again after it was stopped or killed, and waits until it takes connections.
    pub fn resume(&mut self) {
        let mut tries = 0..1_000;
        within(PATIENCE, "PostgreSQL takes connections", || {
            let mut running = self.running.take().unwrap_or_else(|| self.serve());
            if running.has_ended() {
                // The processes of a killed server may not have ended yet: then it starts later.
                assert!(tries.next().is_some(), "PostgreSQL ends:\n{}", self.log());
                return false;
            }
            self.running = Some(running);
            let mut ready = self.installed.command("pg_isready");
            ready.args(["-q", "-p", &self.port.to_string(), "-h"]).arg(&self.dir);
            ready.status().unwrap().success()
        });
    }

    /// Stops the server in the middle of everything, and starts it again.
    pub fn crash(&mut self) {
        self.stop();
        self.resume();
    }

    /// The address of the server's port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The folder with the server's data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The connection string of a database for a role, by the socket: names and values.
    #[must_use]
    pub fn url(&self, role: &str, database: &str) -> String {
        let (dir, port) = (self.dir.display(), self.port);
        format!("host={dir} port={port} user={role} dbname={database}")
    }

    /// The URL of a database for a role, by the port: `postgres://…`.
    #[must_use]
    pub fn tcp_url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@{}/{database}", self.address())
    }

    /// Connects as the owner.
    pub async fn connect(&self, database: &str) -> Client {
        let (client, connection) =
            tokio_postgres::connect(&self.url("owner", database), NoTls).await.unwrap();
        drop(tokio::spawn(connection));
        client
    }

    /// Runs SQL as the owner, each statement a transaction of its own, and returns what it selects:
    /// a line a row, columns separated by `|`.
    ///
    /// # Panics
    /// When a statement fails.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = self.installed.command("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "owner", "-h"]);
        psql.arg(&self.dir).args(["-p", &self.port.to_string(), "-d", database, "-f", "-"]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = psql.spawn().unwrap();
        // It answers little before it has read everything, so neither waits for the other.
        running.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let ended = running.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{sql}: {error}");
        String::from_utf8(ended.stdout).unwrap()
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// A server that is not started, whose data is not there yet.
    fn in_new_folder(installed: Installed) -> Self {
        let folder = tempfile::Builder::new().prefix("pg").tempdir_in(installed::folder()).unwrap();
        let dir = folder.keep();
        if let Some(other) = installed.user {
            chown(&dir, Some(other.uid), Some(other.gid)).unwrap();
        }
        Self { dir, port: free_port(), installed, running: None }
    }

    fn serve(&self) -> Guard {
        let mut server = self.installed.command("postgres");
        server.arg("-D").arg(self.data());
        Guard::start(server, &self.dir)
    }

    /// Adds lines to `postgresql.conf`; a later line wins.
    fn configure(&self, settings: &[(&str, &str)]) {
        let (dir, port) = (self.dir.display(), self.port);
        let mut lines = format!(
            "\nlisten_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{dir}'\n"
        );
        for (name, value) in settings {
            writeln!(lines, "{name} = '{}'", value.replace('\'', "''")).unwrap();
        }
        let path = self.data().join("postgresql.conf");
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }

    /// Writes a file of the data folder that only the server may read.
    fn write(&self, name: &str, content: &[u8]) {
        let path = self.data().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        if let Some(other) = self.installed.user {
            chown(&path, Some(other.uid), Some(other.gid)).unwrap();
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Runs a program to its end.
///
/// # Panics
/// When it fails.
fn finish(command: &mut Command) {
    let ended = command.output().unwrap();
    let error = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{command:?}: {error}");
}

fn kill(pid: impl AsRef<OsStr>) {
    let sent = Command::new("kill").arg("-KILL").arg(pid).status().unwrap();
    assert!(sent.success(), "a process cannot be killed");
}

/// A port that nobody listens on. A server has the same port when it starts again.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that start servers at the same time begin at different ports.
    let first = std::process::id().wrapping_mul(37) % u32::from(PORTS);
    let first = u16::try_from(first).unwrap();
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + first.wrapping_add(step) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

#[cfg(test)]
mod tests;

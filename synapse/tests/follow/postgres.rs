//! A PostgreSQL server for one test, in a temporary folder, reached by a socket in that folder.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use backscroll_testkit::within::within;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Stopped when dropped.
pub(crate) struct Postgres {
    dir: TempDir,
    server: Child,
    bin: PathBuf,
    user: Option<OtherUser>,
}

/// The user as whom the server runs: it refuses to run as root.
#[derive(Clone, Copy)]
struct OtherUser {
    uid: u32,
    gid: u32,
}

impl Postgres {
    /// Starts a server with an empty cluster. `None`, with a message, if PostgreSQL is not installed.
    pub(crate) fn start() -> Option<Self> {
        let Some(bin) = programs() else {
            eprintln!("skipped: PostgreSQL (initdb) is not installed");
            return None;
        };
        let user = other_user();
        let dir = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp").unwrap();
        if let Some(OtherUser { uid, gid }) = user {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let data = dir.path().join("data");
        let mut initdb = command(&bin.join("initdb"), user);
        initdb.args(["-U", "owner", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]);
        let made = initdb.arg(&data).output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let server = serve(&bin, user, dir.path());
        let postgres = Self { dir, server, bin, user };
        postgres.wait();
        Some(postgres)
    }

    /// Kills the server in the middle of everything, and starts it again.
    pub(crate) fn crash(&mut self) {
        let data = self.dir.path().join("data");
        let mut stop = command(&self.bin.join("pg_ctl"), self.user);
        let stopped = stop.args(["stop", "-m", "immediate", "-D"]).arg(&data).output().unwrap();
        assert!(stopped.status.success());
        self.server.wait().unwrap();
        self.server = serve(&self.bin, self.user, self.dir.path());
        self.wait();
    }

    /// The connection string of a database for a role.
    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        let dir = self.dir.path().display();
        format!("host={dir} user={role} dbname={database}")
    }

    /// Connects as the owner.
    pub(crate) async fn connect(&self, database: &str) -> Client {
        let (client, connection) =
            tokio_postgres::connect(&self.url("owner", database), NoTls).await.unwrap();
        drop(tokio::spawn(connection));
        client
    }

    fn wait(&self) {
        let socket = self.dir.path();
        within(PATIENCE, "PostgreSQL accepts connections", || {
            let mut ready = command(&self.bin.join("pg_isready"), self.user);
            ready.arg("-q").arg("-h").arg(socket).status().unwrap().success()
        });
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.dir.path().join("data");
        let mut stop = command(&self.bin.join("pg_ctl"), self.user);
        drop(stop.args(["stop", "-m", "immediate", "-D"]).arg(&data).output());
        drop(self.server.wait());
    }
}

fn serve(bin: &Path, user: Option<OtherUser>, dir: &Path) -> Child {
    let mut server = command(&bin.join("postgres"), user);
    server.arg("-D").arg(dir.join("data")).arg("-k").arg(dir);
    server.args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=40"]);
    server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn command(program: &Path, user: Option<OtherUser>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null());
    if let Some(OtherUser { uid, gid }) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// The folder with PostgreSQL's programs: the newest version that is installed.
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

//! PgBouncer before a server: each transaction of a client may get another connection to the server.

use std::{
    fs::{self, Permissions},
    net::{SocketAddr, TcpStream},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{PATIENCE, Postgres, free_port, guard::Guard, installed};
use crate::within::within;

/// Where Debian's package puts the program.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// A running PgBouncer. Whoever connects is the role `owner`. Ends when dropped.
#[derive(Debug)]
pub struct Bouncer {
    dir: PathBuf,
    port: u16,
    running: Option<Guard>,
}

impl Postgres {
    /// Starts a PgBouncer that shares `connections` to this server between the transactions of all
    /// clients. `None`, with a message, if it is not installed.
    ///
    /// # Panics
    /// When it is not installed and `BACKSCROLL_POSTGRES` is `required`.
    #[must_use]
    pub fn bouncer(&self, connections: u32) -> Option<Bouncer> {
        if !Path::new(PROGRAM).exists() {
            assert!(!installed::is_required(), "PgBouncer is not installed, and it is required");
            eprintln!("skipped: PgBouncer is not installed");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("pb").tempdir_in(installed::folder()).unwrap();
        let (dir, port) = (folder.keep(), free_port());
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=owner\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = {connections}\n\
             max_client_conn = 200\n",
            self.port
        );
        let file = dir.join("pgbouncer.ini");
        fs::write(&file, settings).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let mut program = Command::new(PROGRAM);
        program.env_clear().current_dir("/").stdin(Stdio::null()).arg(&file);
        if let Some(other) = self.installed.user {
            for path in [&dir, &file] {
                chown(path, Some(other.uid), Some(other.gid)).unwrap();
            }
            program.uid(other.uid).gid(other.gid);
        }
        let running = Some(Guard::start(program, &dir));
        let bouncer = Bouncer { dir, port, running };
        within(PATIENCE, "PgBouncer takes connections", || {
            TcpStream::connect(bouncer.address()).is_ok()
        });
        Some(bouncer)
    }
}

impl Bouncer {
    /// The address to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        self.running = None;
        drop(fs::remove_dir_all(&self.dir));
    }
}

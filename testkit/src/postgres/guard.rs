//! A server that does not outlive the process that started it.

use std::{
    fs::File,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use crate::within::{holds_within, within};

use super::PATIENCE;

/// How long a server may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// Waits for a line. If standard input ends without one, the process that started this one has died:
/// then the server is ended and its folder removed.
const SCRIPT: &str = r#"
read -r line && exit
kill -QUIT "$1"
tries=0
while kill -0 "$1" && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -KILL "$1"
rm -rf "$2"
"#;

/// A running server, and the process that ends it if ours dies. Killed when dropped.
#[derive(Debug)]
pub(super) struct Guard {
    server: Child,
    watcher: Child,
    /// The watcher waits for its end.
    line: Option<ChildStdin>,
}

impl Guard {
    /// Starts a server that logs to a file in `folder`.
    pub(super) fn start(mut server: Command, folder: &Path) -> Self {
        let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
        server.stdout(log.try_clone().unwrap()).stderr(log);
        // Ctrl-C ends the tests only: the watcher does the rest in order.
        let server = server.process_group(0).spawn().unwrap();
        let mut watcher = Command::new("sh");
        watcher.args(["-c", SCRIPT, "sh", &server.id().to_string()]).arg(folder).process_group(0);
        watcher.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut watcher = watcher.spawn().unwrap();
        let line = watcher.stdin.take();
        Self { server, watcher, line }
    }

    /// Whether the server has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        self.server.try_wait().unwrap().is_some()
    }

    /// Waits until the server has ended, after it was asked to.
    pub(super) fn wait(&mut self) {
        within(PATIENCE, "PostgreSQL ends", || self.has_ended());
    }
}

#[cfg(test)]
impl Guard {
    /// Does what the system does when this process dies: it closes this end of the pipe.
    pub(super) fn forget_line(&mut self) {
        self.line = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SIGQUIT: the server ends its other processes, without writing anything.
        let pid = self.server.id().to_string();
        drop(Command::new("kill").args(["-QUIT", &pid]).stderr(Stdio::null()).status());
        // PgBouncer does not handle this signal, and in a shell's background it is ignored.
        if !holds_within(GRACE, || self.has_ended()) {
            drop(self.server.kill());
        }
        self.wait();
        if let Some(mut line) = self.line.take() {
            drop(line.write_all(b"ended\n"));
        }
        drop(self.watcher.wait());
    }
}

//! The real binary: a service in a process of its own, and the commands that talk to it.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStderr, Command, Output, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

/// A command of the binary, with nothing of the environment.
pub(crate) fn backscroll<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    backscroll(args).output().unwrap()
}

/// Standard output of a command that went well.
pub(crate) fn stdout(output: Output) -> String {
    let (out, err) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    assert!(output.status.success(), "{:?}\n{}", out, err.unwrap());
    out.unwrap()
}

/// How long a service may take to open its store and serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service that is ready. Killed when dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    /// Where it listens, as a URL.
    pub(crate) url: String,
    log: Option<JoinHandle<String>>,
}

impl Process {
    /// Starts a service and waits until it serves.
    pub(crate) fn start(data_dir: &Path, flags: &[&str]) -> Self {
        Self::start_with(data_dir, flags, |_| ())
    }

    /// Starts a service whose command is changed before, and waits until it serves.
    pub(crate) fn start_with(
        data_dir: &Path,
        flags: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let args = ["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data-dir"];
        let mut command = backscroll(args);
        command.arg(data_dir).args(flags).stdout(Stdio::null()).stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (to_us, address) = mpsc::channel();
        let log = thread::spawn(move || follow(stderr, &to_us));
        let mut it = Self { child, url: String::new(), log: Some(log) };
        match address.recv_timeout(PATIENCE) {
            Ok(address) => it.url = format!("http://{address}"),
            Err(_) => panic!("it does not serve:\n{}", it.kill()),
        }
        it
    }

    /// Runs a command against it: `args` begins with the command's name.
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        run(args.iter().copied().chain(["--server", &self.url]))
    }

    /// Kills it. What it logged.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.log.take().unwrap().join().unwrap()
    }

    /// Asks it to stop, and waits. Its exit code and what it logged.
    pub(crate) fn stop(self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.wait()
    }

    /// Waits until it ends by itself. Its exit code and what it logged.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already, mostly.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Reads the log to its end, and tells where it serves as soon as it says so.
fn follow(mut log: BufReader<ChildStderr>, address: &mpsc::Sender<String>) -> String {
    let mut read = String::new();
    loop {
        let start = read.len();
        if log.read_line(&mut read).unwrap() == 0 {
            return read;
        }
        let line: Value = serde_json::from_str(&read[start..]).unwrap_or_default();
        if line["message"] == "serving" {
            // Nobody listens any more when that took too long.
            drop(address.send(line["address"].as_str().unwrap().to_owned()));
        }
    }
}

//! The real binary: a service in a process of its own, and the commands that talk to it.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStderr, Command, Output, Stdio},
    thread::{self, JoinHandle},
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
        let args = ["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--data-dir"];
        let mut command = backscroll(args);
        command.arg(data_dir).args(flags).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = address(&mut log);
        let log = thread::spawn(move || {
            let mut rest = String::new();
            log.read_to_string(&mut rest).unwrap();
            rest
        });
        Self { child, url: format!("http://{address}"), log: Some(log) }
    }

    /// Runs a command against it: `args` begins with the command's name.
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        run(args.iter().copied().chain(["--server", &self.url]))
    }

    /// Asks it to stop, and waits. Its exit code and what it logged.
    pub(crate) fn stop(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
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

/// Reads the log up to the line that says where it serves.
fn address(log: &mut BufReader<ChildStderr>) -> String {
    let mut read = String::new();
    loop {
        let start = read.len();
        assert_ne!(log.read_line(&mut read).unwrap(), 0, "it does not serve:\n{read}");
        let line: Value = serde_json::from_str(&read[start..]).unwrap_or_default();
        if line["message"] == "serving" {
            return line["address"].as_str().unwrap().to_owned();
        }
    }
}

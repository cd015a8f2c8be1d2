//! The real binary: the service in a process of its own, and the commands that call it.

use std::{
    ffi::OsStr,
    ops::Deref,
    path::Path,
    process::{Command, Output, Stdio},
};

use backscroll::store::Options;
use backscroll_testkit::process::{Ended, Program};

const SERVE: [&str; 5] = ["serve", "--listen", "127.0.0.1:0", "--log-format", "json"];

/// A command of the binary, with an empty environment. A `--data-dir` and the directory after it become
/// the flags of the engine under test.
pub(crate) fn backscroll<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll"));
    command.env_clear().stdin(Stdio::null());
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match (arg.as_ref() == "--data-dir").then(|| args.next()).flatten() {
            Some(data_dir) => command.args(store(data_dir.as_ref())),
            None => command.arg(arg),
        };
    }
    command
}

/// The flags for a store in a directory, of the engine under test.
pub(crate) fn store(data_dir: impl AsRef<Path>) -> [String; 2] {
    let place = Options::small(data_dir.as_ref()).place;
    ["--store".to_owned(), place.to_string()]
}

/// Runs a command to its end.
pub(crate) fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    backscroll(args).output().unwrap()
}

/// Standard output of a command that succeeded.
pub(crate) fn stdout(output: Output) -> String {
    let out = String::from_utf8(output.stdout);
    let err = String::from_utf8(output.stderr);
    assert!(output.status.success(), "{out:?}\n{}", err.unwrap());
    out.unwrap()
}

/// A history service that serves. Killed when dropped.
pub(crate) struct Process(Program);

impl Process {
    /// Starts a service and waits until it serves.
    pub(crate) fn start(data_dir: &Path, flags: &[&str]) -> Self {
        Self::start_with(data_dir, flags, |_| ())
    }

    /// Starts a service with a changed command, and waits until it serves.
    pub(crate) fn start_with(
        data_dir: &Path,
        flags: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let mut command = backscroll(SERVE);
        command.args(store(data_dir)).args(flags);
        change(&mut command);
        Self(Program::start(command))
    }

    /// Starts a service over a store, and waits until it serves.
    pub(crate) fn start_over(place: &str, flags: &[&str]) -> Self {
        let mut command = backscroll(SERVE);
        command.args(["--store", place]).args(flags);
        Self(Program::start(command))
    }

    /// Runs a command against the service; `args` begins with the command's name.
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        run(args.iter().copied().chain(["--server", &self.url()]))
    }

    /// Kills the service; returns what it logged.
    pub(crate) fn kill(self) -> String {
        self.0.kill()
    }

    /// Asks the service to stop, and waits until it has ended.
    pub(crate) fn stop(self) -> Ended {
        self.0.stop()
    }

    /// Waits until the service ends by itself.
    pub(crate) fn wait(self) -> Ended {
        self.0.wait()
    }
}

impl Deref for Process {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.0
    }
}

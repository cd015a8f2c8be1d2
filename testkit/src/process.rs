//! Programs in processes of their own: started, watched until they listen, stopped, killed.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

use crate::within::within;

/// How long a program may take to listen, or to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running server program. Killed when dropped.
#[derive(Debug)]
pub struct Program {
    /// The process.
    pub child: Child,
    /// The address where the program listens.
    pub address: SocketAddr,
    log: Log,
}

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The exit code; `None` if a signal ended the process.
    pub code: Option<i32>,
    /// Everything that the program logged.
    pub log: String,
}

/// Where the log of a program is.
#[derive(Debug)]
enum Log {
    /// A thread reads it to its end; `None` once the text was taken.
    Followed(Option<JoinHandle<String>>),
    /// A file contains it.
    File(PathBuf),
}

impl Program {
    /// Starts a program, and returns when it has logged its address to standard error.
    ///
    /// # Panics
    /// When the program ends before, or does not log an address in time. The message has its log.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stderr = child.stderr.take().expect("standard error is a pipe");
        let (sender, address) = mpsc::channel();
        let follower = thread::spawn(move || follow(BufReader::new(stderr), &sender));
        if let Ok(address) = address.recv_timeout(PATIENCE) {
            return Self { child, address, log: Log::Followed(Some(follower)) };
        }
        drop(child.kill());
        let status = child.wait();
        panic!("the program does not listen ({status:?}):\n{}", follower.join().unwrap())
    }

    /// Starts a program that logs to a file, so that no other process spends time on its log.
    ///
    /// # Panics
    /// As [`Program::start`].
    pub fn start_with_log_file(mut command: Command, path: &Path) -> Self {
        let file = File::create(path).expect("the log can be created");
        let copy = file.try_clone().expect("a file has a second handle");
        command.stdin(Stdio::null()).stdout(copy).stderr(file);
        let mut child = command.spawn().expect("the program starts");
        let mut address = None;
        within(PATIENCE, "the program listens", || {
            let log = read(path);
            let ended = child.try_wait().expect("the process can be asked");
            assert!(ended.is_none(), "the program ended ({ended:?}):\n{log}");
            address = log.lines().find_map(logged_address);
            address.is_some()
        });
        Self { child, address: address.unwrap(), log: Log::File(path.to_owned()) }
    }

    /// The base URL of the program: `http` and its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Kills the program; returns what it logged.
    pub fn kill(mut self) -> String {
        self.child.kill().expect("the process can be killed");
        self.wait().log
    }

    /// Asks the program to stop (SIGTERM), and waits until it has ended.
    pub fn stop(self) -> Ended {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill exists");
        assert!(sent.success(), "the process {pid} cannot be asked to stop");
        self.wait()
    }

    /// Waits until the program ends by itself.
    ///
    /// # Panics
    /// When it has not ended after two minutes.
    pub fn wait(mut self) -> Ended {
        let mut status = None;
        within(PATIENCE, "the program ends", || {
            status = self.child.try_wait().expect("the process can be asked");
            status.is_some()
        });
        let log = match &mut self.log {
            Log::Followed(follower) => follower.take().unwrap().join().unwrap(),
            Log::File(path) => read(path),
        };
        Ended { code: status.unwrap().code(), log }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail for a process that has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("the log can be read")
}

/// Reads a log to its end, and sends the first address that the program listens on.
fn follow(mut log: BufReader<impl Read>, sender: &mpsc::Sender<SocketAddr>) -> String {
    let mut text = String::new();
    loop {
        let start = text.len();
        if log.read_line(&mut text).expect("the log is UTF-8") == 0 {
            return text;
        }
        if let Some(address) = text.get(start..).and_then(logged_address) {
            // The starter takes the first address only.
            sender.send(address).unwrap_or_default();
        }
    }
}

/// The address in a log line that says where the program listens, in either log format: `serving`
/// with the field `address`, or `listening on` and the address.
fn logged_address(line: &str) -> Option<SocketAddr> {
    if let Ok(fields) = serde_json::from_str::<Value>(line) {
        let message = fields["message"].as_str()?;
        let listening = message.strip_prefix("listening on ");
        let serving = || (message == "serving").then(|| fields["address"].as_str())?;
        return listening.or_else(serving)?.parse().ok();
    }
    let is_it = line.contains("serving") || line.contains("listening on");
    let mut words = line.trim_end().split([' ', '=', '\u{1b}']).rev();
    is_it.then(|| words.find_map(|it| it.trim_start_matches("[0m").parse().ok()))?
}

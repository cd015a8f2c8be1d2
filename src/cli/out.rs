//! Standard output. Its reader may close it early (`backscroll export … | head -1`). A command that
//! only prints then ends without an error. Any other command continues without printing, and its exit
//! code shows the result.

use std::{
    error::Error,
    fmt,
    fs::File,
    io::{self, BufWriter, Write},
    os::fd::AsFd as _,
};

/// Standard output for a command that only prints.
pub(super) fn text() -> BufWriter<Out> {
    BufWriter::new(Out(io::stdout()))
}

/// Writes a line. If standard output is closed, this does nothing and returns `Ok`.
pub(super) fn line(line: impl fmt::Display) -> io::Result<()> {
    let mut out = Out(io::stdout());
    // In one write, so that no other process writes in between.
    match out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()) {
        Err(error) if is_closed(&error) => Ok(()),
        done => done,
    }
}

/// Syncs standard output to disk, if it is a file.
pub(super) fn sync() -> io::Result<()> {
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if out.metadata()?.is_file() { out.sync_all() } else { Ok(()) }
}

/// Whether a command failed only because standard output is closed.
pub(super) fn was_closed(failure: &anyhow::Error) -> bool {
    failure.chain().filter_map(|it| it.downcast_ref()).any(is_closed)
}

fn is_closed(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<Closed>)
}

/// The error of a write to closed standard output. It differs from that of a broken connection.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl Error for Closed {}

/// Standard output, with [`Closed`] as the error if it is closed.
pub(super) struct Out(io::Stdout);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(mark_closed)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(mark_closed)
    }
}

fn mark_closed(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, Closed),
        _ => error,
    }
}

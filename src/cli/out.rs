//! Standard output. Whoever reads it may stop reading (`backscroll export … | head -1`): then what
//! is left of a text is not written and the command ends, without a word; a command that does
//! something else than to print goes on with that, and its exit code says how it went.

use std::{
    error::Error,
    fmt,
    fs::File,
    io::{self, BufWriter, Write},
    os::fd::AsFd as _,
};

/// Standard output, for a text that is all that a command is for.
pub(super) fn text() -> BufWriter<Out> {
    BufWriter::new(Out(io::stdout()))
}

/// Writes a line, for whoever still reads.
pub(super) fn line(line: impl fmt::Display) -> io::Result<()> {
    let mut out = Out(io::stdout());
    // At once, so that nobody's line comes in between.
    match out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()) {
        Err(error) if is_closed(&error) => Ok(()),
        done => done,
    }
}

/// Sees to it that what was written to standard output is on disk, if it is a file.
pub(super) fn sync() -> io::Result<()> {
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    if out.metadata()?.is_file() { out.sync_all() } else { Ok(()) }
}

/// Whether a command ended because nobody reads what it prints.
pub(super) fn was_closed(failure: &anyhow::Error) -> bool {
    failure.chain().filter_map(|it| it.downcast_ref()).any(is_closed)
}

fn is_closed(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<Closed>)
}

/// Nobody reads standard output any more: told apart from a connection that broke.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl Error for Closed {}

/// Standard output.
pub(super) struct Out(io::Stdout);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(told)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(told)
    }
}

fn told(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, Closed),
        _ => error,
    }
}

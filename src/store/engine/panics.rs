//! Turns panics of sled into errors. sled panics when it meets a state that it does not expect, in
//! its own threads as well. The panics are caught where the store opens, writes and scans. None of
//! them reaches standard error on its own.

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook},
    sync::Once,
    thread,
};

use super::StoreError;
use crate::store::EngineError;

thread_local! {
    /// Whether a panic of this thread is caught by [`caught`].
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
    /// The message of this thread's last panic.
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The start of the names of sled's threads.
const SLED_THREADS: &str = "sled";

/// Runs `work`, and returns a panic as an error. Not for work that must not be left half-done.
///
/// # Errors
/// [`EngineError::Panicked`], with the message of the panic.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, StoreError> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if IS_CAUGHT.get() {
                MESSAGE.set(message(info));
            } else if is_of_sled() {
                tracing::debug!(message = message(info), "a thread of sled panicked");
            } else {
                usual(info);
            }
        }));
    });
    let outer = IS_CAUGHT.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    IS_CAUGHT.set(outer);
    done.map_err(|_| EngineError::Panicked(MESSAGE.take()).into())
}

/// Whether this thread is one of sled's.
fn is_of_sled() -> bool {
    thread::current().name().is_some_and(|it| it.starts_with(SLED_THREADS))
}

/// The message of a panic on one line, and the place in the source.
fn message(info: &PanicHookInfo<'_>) -> String {
    let text = info.payload_as_str().unwrap_or("no message").replace('\n', " ");
    match info.location() {
        Some(at) => {
            format!("{text} ({}:{})", at.file().rsplit('/').next().unwrap_or(""), at.line())
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let inner = caught(|| caught(|| panic!("two\nlines")).map_err(|it| it.to_string()));
        let message = inner.unwrap().unwrap_err();
        assert!(message.contains("two lines (panics.rs:"), "{message}");
        assert_eq!(caught(|| 7).unwrap(), 7);
    }
}

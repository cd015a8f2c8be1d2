//! sled panics at what it does not expect, in its own threads as well. What it throws is caught
//! where it is opened, written and walked, and put into the words of an error; nothing of it
//! reaches standard error by itself.

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook},
    sync::Once,
    thread,
};

use super::StoreError;

thread_local! {
    /// Whether a panic of this thread is caught by us.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
    /// What the last panic of this thread said.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What the names of sled's threads begin with.
const SLED_THREADS: &str = "sled";

/// Does something, and makes an error of a panic. Not to be used around what must not be left
/// half-done.
///
/// # Errors
/// [`StoreError::Panicked`], with what the panic said.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, StoreError> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if CAUGHT.get() {
                SAID.set(words(info));
            } else if is_of_sled() {
                tracing::debug!(said = words(info), "a thread of sled panicked");
            } else {
                usual(info);
            }
        }));
    });
    let outer = CAUGHT.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(outer);
    done.map_err(|_| StoreError::Panicked(SAID.take()))
}

fn is_of_sled() -> bool {
    thread::current().name().is_some_and(|it| it.starts_with(SLED_THREADS))
}

/// What a panic says, on one line, and where it was.
fn words(info: &PanicHookInfo<'_>) -> String {
    let said = info.payload_as_str().unwrap_or("nothing").replace('\n', " ");
    match info.location() {
        Some(at) => {
            format!("{said} ({}:{})", at.file().rsplit('/').next().unwrap_or(""), at.line())
        }
        None => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        let caught_inside = caught(|| caught(|| panic!("two\nlines")).map_err(|it| it.to_string()));
        let said = caught_inside.unwrap().unwrap_err();
        assert!(said.contains("two lines (panics.rs:"), "{said}");
        assert_eq!(caught(|| 7).unwrap(), 7);
    }
}

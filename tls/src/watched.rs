//! A value that is created from files, and created again when they change.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Context as _;

/// Pause between two looks at the files. Orchestrators replace certificates hours before they expire.
const INTERVAL: Duration = Duration::from_secs(5);

type Make<T> = Box<dyn Fn(&[Vec<u8>]) -> anyhow::Result<T> + Send + Sync>;

/// A value created from files.
pub struct Watched<T> {
    paths: Vec<PathBuf>,
    make: Make<T>,
    current: RwLock<Arc<T>>,
    /// The last contents of the files, valid or not.
    seen: Mutex<Vec<Vec<u8>>>,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the files for the first time. `make` creates the value from their contents, in the order
    /// of `paths`.
    ///
    /// # Errors
    /// When a file cannot be read, or when `make` fails.
    pub fn open(
        paths: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>]) -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Arc<Self>> {
        let contents = read(&paths)?;
        let current = RwLock::new(Arc::new(make(&contents)?));
        Ok(Arc::new(Self { paths, make: Box::new(make), current, seen: Mutex::new(contents) }))
    }

    /// The current value.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again. Whether there is a new value. An error is logged, and the value stays.
    pub fn look(&self) -> bool {
        let made = read(&self.paths).and_then(|contents| {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == contents {
                return Ok(None);
            }
            *seen = contents;
            (self.make)(&seen).map(Some)
        });
        match made {
            Ok(None) => false,
            Ok(Some(made)) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(made);
                tracing::info!(files = ?self.paths, "read changed files");
                true
            }
            Err(error) => {
                tracing::error!("{error:#}; the previous version stays in use");
                false
            }
        }
    }

    /// Starts a task that reads the files again every few seconds, until the value is dropped. Must be
    /// called within a tokio runtime.
    pub fn watch(self: &Arc<Self>) {
        let watched = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                let Some(watched) = watched.upgrade() else { return };
                // Reading files may block.
                drop(tokio::task::spawn_blocking(move || watched.look()).await);
            }
        });
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.paths).finish()
    }
}

fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Vec<u8>>> {
    let file = |path: &PathBuf| -> io::Result<_> { fs::read::<&Path>(path) };
    let contents = paths.iter().map(|it| file(it).with_context(|| format!("{}", it.display())));
    contents.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_again_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        fs::write(&path, "1").unwrap();
        let parse = |files: &[Vec<u8>]| Ok(String::from_utf8(files[0].clone())?.parse::<u32>()?);
        let watched = Watched::open(vec![path.clone()], parse).unwrap();
        assert_eq!(*watched.get(), 1);
        assert!(!watched.look());
        fs::write(&path, "2").unwrap();
        assert!(watched.look());
        assert_eq!(*watched.get(), 2);
        for broken in ["", "x"] {
            fs::write(&path, broken).unwrap();
            assert!(!watched.look());
            assert_eq!(*watched.get(), 2);
        }
        fs::remove_file(&path).unwrap();
        assert!(!watched.look());
        fs::write(&path, "3").unwrap();
        assert!(watched.look());
        assert_eq!(*watched.get(), 3);
    }

    #[test]
    fn a_missing_file_at_the_start_is_an_error() {
        assert!(Watched::open(vec!["/nowhere".into()], |_| Ok(())).is_err());
    }
}

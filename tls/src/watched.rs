//! Something made of files, made anew when they change.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Context as _;

/// How often files are looked at. Orchestrators replace certificates hours before they end.
const EVERY: Duration = Duration::from_secs(5);

type Make<T> = Box<dyn Fn(&[Vec<u8>]) -> anyhow::Result<T> + Send + Sync>;

/// What files say at the moment.
pub struct Watched<T> {
    paths: Vec<PathBuf>,
    make: Make<T>,
    current: RwLock<Arc<T>>,
    /// What was read last, taken or not.
    seen: Mutex<Vec<Vec<u8>>>,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// When a file cannot be read, or nothing can be made of them.
    pub fn open(
        paths: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>]) -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Arc<Self>> {
        let contents = read(&paths)?;
        let current = RwLock::new(Arc::new(make(&contents)?));
        Ok(Arc::new(Self { paths, make: Box::new(make), current, seen: Mutex::new(contents) }))
    }

    /// What they say now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the files. Whether something new was made of them.
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
                tracing::info!(files = ?self.paths, "read anew");
                true
            }
            Err(error) => {
                tracing::error!("{error:#}; going on with what was read before");
                false
            }
        }
    }

    /// Looks at the files every few seconds for as long as somebody else holds this. Needs a
    /// runtime.
    pub fn watch(self: &Arc<Self>) {
        let watched = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                let Some(watched) = watched.upgrade() else { return };
                // A disk may be slow.
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
    fn what_is_not_there_at_the_start_is_an_error() {
        assert!(Watched::open(vec!["/nowhere".into()], |_| Ok(())).is_err());
    }
}

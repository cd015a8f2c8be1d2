//! Where a store is.

use std::{fmt, path::PathBuf, str::FromStr};

/// Where a store is.
#[derive(Clone, PartialEq, Eq)]
pub enum Place {
    /// In a directory of this machine, kept by sled; made if it does not exist.
    Sled(PathBuf),
    /// In a directory of this machine, kept by fjall; made if it does not exist.
    Fjall(PathBuf),
}

impl Place {
    /// A store of the same engine in another directory.
    #[must_use]
    pub fn in_dir(&self, dir: PathBuf) -> Self {
        match self {
            Self::Sled(_) => Self::Sled(dir),
            Self::Fjall(_) => Self::Fjall(dir),
        }
    }

    /// Whether there is a store, or anything else, at this place.
    #[must_use]
    pub fn exists(&self) -> bool {
        match self {
            Self::Sled(dir) | Self::Fjall(dir) => dir.is_dir(),
        }
    }
}

/// A text does not say where a store is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no store; give sled:DIR or fjall:DIR")]
pub struct PlaceError(String);

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        match text.split_once(':') {
            Some(("sled", dir)) if !dir.is_empty() => Ok(Self::Sled(dir.into())),
            Some(("fjall", dir)) if !dir.is_empty() => Ok(Self::Fjall(dir.into())),
            _ => Err(PlaceError(text.to_owned())),
        }
    }
}

/// Without secrets.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sled(dir) => write!(f, "sled:{}", dir.display()),
            Self::Fjall(dir) => write!(f, "fjall:{}", dir.display()),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

//! Where a store is.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use backscroll_postgres::{Address, AddressError};

/// Where a store is.
#[derive(Clone, PartialEq, Eq)]
pub enum Place {
    /// In a directory of this machine, kept by sled; made if it does not exist.
    Sled(PathBuf),
    /// In a directory of this machine, kept by fjall; made if it does not exist.
    Fjall(PathBuf),
    /// In a PostgreSQL database, which several processes may share; `backscroll prepare` makes the
    /// tables.
    Postgres(PostgresPlace),
}

impl Place {
    /// A store of the same engine in another directory.
    #[must_use]
    pub fn in_dir(&self, dir: PathBuf) -> Self {
        match self {
            Self::Sled(_) => Self::Sled(dir),
            Self::Fjall(_) => Self::Fjall(dir),
            Self::Postgres(place) => Self::Postgres(place.clone()),
        }
    }

    /// Whether there is a store, or anything else, at this place.
    #[must_use]
    pub fn exists(&self) -> bool {
        match self {
            Self::Sled(dir) | Self::Fjall(dir) => dir.is_dir(),
            Self::Postgres(_) => true,
        }
    }
}

/// A PostgreSQL database: `postgres://USER@HOST/DATABASE`, with the parameters that
/// `docs/configuration.md` lists.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresPlace {
    address: Arc<Address>,
}

impl PostgresPlace {
    /// How to connect to the database.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }
}

impl FromStr for PostgresPlace {
    type Err = PlaceError;

    fn from_str(url: &str) -> Result<Self, PlaceError> {
        let address = url.parse().map_err(PlaceError::Postgres)?;
        Ok(Self { address: Arc::new(address) })
    }
}

/// As a URL without the password.
impl fmt::Display for PostgresPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.address, f)
    }
}

impl fmt::Debug for PostgresPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text does not say where a store is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// It begins as no store does.
    #[error("{0:?} is no store; give sled:DIR, fjall:DIR or postgres://USER@HOST/DATABASE")]
    Unknown(String),
    /// It is not the URL of a PostgreSQL database. The URL is not quoted: it may hold a password.
    #[error("the URL of the PostgreSQL database is wrong: {0}")]
    Postgres(AddressError),
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        match text.split_once(':') {
            Some(("sled", dir)) if !dir.is_empty() => Ok(Self::Sled(dir.into())),
            Some(("fjall", dir)) if !dir.is_empty() => Ok(Self::Fjall(dir.into())),
            Some(("postgres" | "postgresql", _)) => text.parse().map(Self::Postgres),
            _ => Err(PlaceError::Unknown(text.to_owned())),
        }
    }
}

/// Without secrets.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sled(dir) => write!(f, "sled:{}", dir.display()),
            Self::Fjall(dir) => write!(f, "fjall:{}", dir.display()),
            Self::Postgres(place) => fmt::Display::fmt(place, f),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

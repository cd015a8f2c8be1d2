//! A value as an engine returns it.

use std::ops::Deref;

use bytes::Bytes;
use sled::IVec;

/// A value with its checksum, as the engine returned it. A clone shares the bytes.
#[derive(Clone, Debug)]
pub struct StoredValue(ValueBytes);

#[derive(Clone, Debug)]
enum ValueBytes {
    /// As sled holds it in memory: no copy is made.
    Sled(IVec),
    Bytes(Bytes),
}

impl StoredValue {
    /// The value as sled takes it.
    pub(super) fn into_sled(self) -> IVec {
        match self.0 {
            ValueBytes::Sled(bytes) => bytes,
            ValueBytes::Bytes(bytes) => IVec::from(&*bytes),
        }
    }

    /// The value as fjall takes it.
    pub(super) fn into_bytes(self) -> Bytes {
        match self.0 {
            ValueBytes::Sled(bytes) => Bytes::copy_from_slice(&bytes),
            ValueBytes::Bytes(bytes) => bytes,
        }
    }
}

impl Deref for StoredValue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            ValueBytes::Sled(bytes) => bytes,
            ValueBytes::Bytes(bytes) => bytes,
        }
    }
}

impl PartialEq for StoredValue {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for StoredValue {}

impl From<IVec> for StoredValue {
    fn from(bytes: IVec) -> Self {
        Self(ValueBytes::Sled(bytes))
    }
}

impl From<Bytes> for StoredValue {
    fn from(bytes: Bytes) -> Self {
        Self(ValueBytes::Bytes(bytes))
    }
}

impl From<Vec<u8>> for StoredValue {
    fn from(bytes: Vec<u8>) -> Self {
        Self(ValueBytes::Bytes(bytes.into()))
    }
}

//! Compression by zstd. Its contexts are made once per thread and used again, since a context is
//! larger than most of the values.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};

/// A fast level: higher ones save 3 % more space and take several times as long.
const LEVEL: i32 = 3;

/// The compression of one kind of value, in one thread.
pub(super) struct Compression {
    dictionary: &'static [u8],
    compressor: RefCell<Option<Compressor<'static>>>,
    decompressor: RefCell<Option<Decompressor<'static>>>,
}

impl Compression {
    /// Compression with a dictionary; an empty one is the same as none.
    pub(super) const fn new(dictionary: &'static [u8]) -> Self {
        Self { dictionary, compressor: RefCell::new(None), decompressor: RefCell::new(None) }
    }

    /// Compresses bytes; `None` if that does not make them shorter.
    pub(super) fn compress(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut compressor = self.compressor.borrow_mut();
        if compressor.is_none() {
            *compressor = Compressor::with_dictionary(LEVEL, self.dictionary).ok();
        }
        let compressed = compressor.as_mut()?.compress(plain).ok()?;
        (compressed.len() < plain.len()).then_some(compressed)
    }

    /// Decompresses bytes; `None` if they are malformed, or longer than `length` decompressed.
    pub(super) fn decompress(&self, bytes: &[u8], length: usize) -> Option<Vec<u8>> {
        let mut decompressor = self.decompressor.borrow_mut();
        if decompressor.is_none() {
            *decompressor = Decompressor::with_dictionary(self.dictionary).ok();
        }
        decompressor.as_mut()?.decompress(bytes, length).ok()
    }
}

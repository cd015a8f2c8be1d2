//! Compression by zstd. What it needs for that is made once a thread and used again: a context is
//! larger than most of what goes through it.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};

/// Quick: higher levels save three hundredths more at several times the time.
const LEVEL: i32 = 3;

/// One way of compressing, of one thread.
pub(super) struct Compression {
    dictionary: &'static [u8],
    compressor: RefCell<Option<Compressor<'static>>>,
    decompressor: RefCell<Option<Decompressor<'static>>>,
}

impl Compression {
    /// With a dictionary; an empty one is none.
    pub(super) const fn new(dictionary: &'static [u8]) -> Self {
        Self { dictionary, compressor: RefCell::new(None), decompressor: RefCell::new(None) }
    }

    /// Nothing if that would not make it shorter.
    pub(super) fn compress(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut compressor = self.compressor.borrow_mut();
        if compressor.is_none() {
            *compressor = Compressor::with_dictionary(LEVEL, self.dictionary).ok();
        }
        let compressed = compressor.as_mut()?.compress(plain).ok()?;
        (compressed.len() < plain.len()).then_some(compressed)
    }

    /// Nothing if the bytes are not what [`Self::compress`] makes of at most `length` others.
    pub(super) fn decompress(&self, bytes: &[u8], length: usize) -> Option<Vec<u8>> {
        let mut decompressor = self.decompressor.borrow_mut();
        if decompressor.is_none() {
            *decompressor = Decompressor::with_dictionary(self.dictionary).ok();
        }
        decompressor.as_mut()?.decompress(bytes, length).ok()
    }
}

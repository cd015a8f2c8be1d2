//! Numbers and bytes on disk: integers of variable length, signed ones folded so that small absolute
//! values are short, and a checksum of both the key and the value.

use crate::num;

/// An error: bytes are not of the expected form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed bytes")]
pub(crate) struct Malformed;

/// Builds a value, from its start.
#[derive(Default)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    /// Appends one byte as it is.
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// Appends a number, seven bits per byte, the lowest first.
    pub(crate) fn number(&mut self, mut number: u64) {
        loop {
            let low = u8::try_from(number & 0x7f).expect("seven bits fit into a byte");
            number >>= 7;
            if number == 0 {
                self.0.push(low);
                return;
            }
            self.0.push(low | 0x80);
        }
    }

    /// Appends a signed number: 0, -1, 1, -2, 2 … as 0, 1, 2, 3, 4 …
    pub(crate) fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)).cast_unsigned());
    }

    /// Appends a length as a number.
    pub(crate) fn length(&mut self, length: usize) {
        self.number(num::u64(length));
    }

    /// Appends bytes without their length.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends text after its length.
    pub(crate) fn text(&mut self, text: &str) {
        self.length(text.len());
        self.raw(text.as_bytes());
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads a value, from its start.
pub(crate) struct Decoder<'a>(pub(crate) &'a [u8]);

impl<'a> Decoder<'a> {
    /// Reads the next byte.
    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    /// Reads a number of up to 64 bits.
    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                return Err(Malformed);
            }
            number |= low << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    /// Reads a signed number.
    pub(crate) fn signed(&mut self) -> Result<i64, Malformed> {
        let folded = self.number()?;
        Ok((folded >> 1).cast_signed() ^ -((folded & 1).cast_signed()))
    }

    /// Reads a number of up to 32 bits.
    pub(crate) fn small(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed)
    }

    /// Reads a count of items of at least one byte each. It is refused if it is greater than the
    /// number of bytes left, so that no value makes the reader reserve more memory than it fills.
    pub(crate) fn length(&mut self) -> Result<usize, Malformed> {
        let length = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        if length > self.0.len() { Err(Malformed) } else { Ok(length) }
    }

    /// Reads the next `length` bytes.
    pub(crate) fn raw(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Reads text after its length.
    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.length()?;
        std::str::from_utf8(self.raw(length)?).map_err(|_| Malformed)
    }

    /// Fails if bytes are left.
    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Appends the checksum to a value. It covers the key too, so that a value under a wrong key is
/// detected.
pub(crate) fn add_checksum(key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let sum = checksum(key, &value);
    value.extend_from_slice(&sum.to_be_bytes());
    value
}

/// Removes the checksum from a stored value, and fails if it is wrong.
pub(crate) fn strip_checksum<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], Malformed> {
    let (value, sum) = stored.split_last_chunk::<4>().ok_or(Malformed)?;
    if checksum(key, value).to_be_bytes() == *sum { Ok(value) } else { Err(Malformed) }
}

/// Replaces the checksum for one key by the checksum for another; a wrong one stays wrong.
pub(crate) fn sealed_again(from: &[u8], to: &[u8], value: &[u8]) -> Vec<u8> {
    if let Ok(content) = strip_checksum(from, value) {
        return add_checksum(to, content.to_vec());
    }
    let content = value.get(..value.len().saturating_sub(4)).unwrap_or_default();
    let mut sealed = add_checksum(to, content.to_vec());
    if let Some(last) = sealed.last_mut() {
        *last = !*last;
    }
    sealed
}

/// The CRC-32 of a key and a value.
fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_round_trip(number: u64, signed: i64, text: String) {
            let mut writer = Encoder::default();
            writer.number(number);
            writer.signed(signed);
            writer.text(&text);
            let bytes = writer.finish();
            let mut reader = Decoder(&bytes);
            prop_assert_eq!(reader.number(), Ok(number));
            prop_assert_eq!(reader.signed(), Ok(signed));
            prop_assert_eq!(reader.text(), Ok(text.as_str()));
            prop_assert_eq!(reader.end(), Ok(()));
        }

        #[test]
        fn reading_any_bytes_does_not_panic(bytes: Vec<u8>) {
            let mut reader = Decoder(&bytes);
            while reader.number().is_ok() && reader.text().is_ok() {}
        }

        #[test]
        fn a_flipped_bit_is_detected(key: Vec<u8>, value: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let mut stored = add_checksum(&key, value.clone());
            prop_assert_eq!(strip_checksum(&key, &stored), Ok(value.as_slice()));
            let at = at.index(stored.len());
            stored[at] ^= 1 << bit;
            prop_assert_eq!(strip_checksum(&key, &stored), Err(Malformed));
        }
    }

    #[test]
    fn an_overlong_number_is_refused() {
        assert_eq!(Decoder(&[0xff; 11]).number(), Err(Malformed));
        assert_eq!(
            Decoder(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).number(),
            Err(Malformed)
        );
    }
}

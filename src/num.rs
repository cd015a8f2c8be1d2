//! Conversions of numbers that cannot fail on the machines that this program is built for.

/// A length or count as a 64-bit number.
#[must_use]
pub(crate) fn u64(number: usize) -> u64 {
    u64::try_from(number).expect("usize has at most 64 bits")
}

/// A 32-bit number as an index or length.
#[must_use]
pub(crate) fn usize(number: u32) -> usize {
    usize::try_from(number).expect("usize has at least 32 bits")
}

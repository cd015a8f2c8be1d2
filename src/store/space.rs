//! Whether there is space to write to. With less than what is reserved there is none; and then, as
//! sled gives a little back now and then, none before there is a good deal more than that: or what
//! is taken, and what health says of it, would go to and fro at the brink.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Store, StoreError};

/// What part of the reserved space must be free beside it before events are taken again.
const MARGIN: u64 = 4;

/// What is kept free of a volume.
#[derive(Debug)]
pub(super) struct Space {
    reserved: u64,
    /// There was too little when it was last asked for.
    is_full: AtomicBool,
}

impl Space {
    pub(super) fn new(reserved: u64) -> Self {
        Self { reserved, is_full: AtomicBool::new(false) }
    }

    /// How many bytes must be free.
    fn needed(&self) -> u64 {
        let margin = if self.is_full.load(Ordering::Relaxed) { self.reserved / MARGIN } else { 0 };
        self.reserved.saturating_add(margin)
    }

    /// Whether so many free bytes are enough, and what would be. Remembered until the next call.
    fn suffices(&self, free: u64) -> Result<(), u64> {
        let needed = self.needed();
        self.is_full.store(free < needed, Ordering::Relaxed);
        if free < needed { Err(self.needed()) } else { Ok(()) }
    }
}

impl Store {
    /// Whether there is space to write to.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] when there is too little, or when the volume cannot be asked.
    pub fn check_space(&self) -> Result<(), StoreError> {
        let reserved = self.space.reserved;
        if reserved == 0 {
            return Ok(());
        }
        let free = self.free_bytes()?;
        let full = |needed| StoreError::DiskFull { free, reserved, needed };
        self.space.suffices(free).map_err(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_below_what_is_reserved_and_begins_again_well_above() {
        let space = Space::new(400);
        let asked = [
            (401, Ok(())),
            (400, Ok(())),
            (399, Err(500)),
            (400, Err(500)),
            (499, Err(500)),
            (500, Ok(())),
            (499, Ok(())),
            (400, Ok(())),
            (0, Err(500)),
        ];
        for (free, expected) in asked {
            assert_eq!(space.suffices(free), expected, "{free}");
        }
    }

    #[test]
    fn whatever_is_reserved_it_stays_as_it_is_at_the_brink() {
        for reserved in [1, 4, 12 << 20, u64::MAX] {
            let space = Space::new(reserved);
            assert!(space.suffices(reserved - 1).is_err(), "{reserved}");
            assert!(space.suffices(reserved - 1).is_err(), "{reserved}");
            assert_eq!(space.suffices(u64::MAX), Ok(()), "{reserved}");
            assert_eq!(space.suffices(reserved), Ok(()), "{reserved}");
        }
    }
}

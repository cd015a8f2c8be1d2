//! Whether the volume has space to write to. Below the reserved space it has none. After that,
//! a quarter more must be free before it has some again: sled gives a little space back now and
//! then, and without the margin writes would be refused and accepted in turn.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Store, StoreError};

/// The margin is the reserved space divided by this.
const MARGIN_DIVISOR: u64 = 4;

/// The space of the volume that is kept free.
#[derive(Debug)]
pub(super) struct Space {
    reserved: u64,
    /// Whether there was too little space at the last check.
    is_full: AtomicBool,
}

impl Space {
    pub(super) fn new(reserved: u64) -> Self {
        Self { reserved, is_full: AtomicBool::new(false) }
    }

    /// How many bytes must be free.
    fn needed(&self) -> u64 {
        let is_full = self.is_full.load(Ordering::Relaxed);
        let margin = if is_full { self.reserved / MARGIN_DIVISOR } else { 0 };
        self.reserved.saturating_add(margin)
    }

    /// Whether `free` bytes are enough; if not, the number that is. The next call depends on the
    /// outcome.
    fn suffices(&self, free: u64) -> Result<(), u64> {
        let needed = self.needed();
        self.is_full.store(free < needed, Ordering::Relaxed);
        if free < needed { Err(self.needed()) } else { Ok(()) }
    }
}

impl Store {
    /// Checks that the volume has space to write to.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] when it has not; another error when its free space cannot be read.
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
    fn writes_stop_below_the_reserved_space_and_resume_a_quarter_above_it() {
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
    fn near_the_limit_the_answer_stays_the_same() {
        for reserved in [1, 4, 12 << 20, u64::MAX] {
            let space = Space::new(reserved);
            assert!(space.suffices(reserved - 1).is_err(), "{reserved}");
            assert!(space.suffices(reserved - 1).is_err(), "{reserved}");
            assert_eq!(space.suffices(u64::MAX), Ok(()), "{reserved}");
            assert_eq!(space.suffices(reserved), Ok(()), "{reserved}");
        }
    }
}

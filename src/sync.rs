//! Locks whose holder has panicked are taken all the same: what they guard is valid after every
//! single statement, so a panic leaves nothing half-changed.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

/// Locks a mutex, and waits for that if needed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a value for reading.
pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a value for writing.
pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Gives a lock back until the condition is notified.
pub(crate) fn wait<'l, T>(condition: &Condvar, guard: MutexGuard<'l, T>) -> MutexGuard<'l, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Gives a lock back until the condition is notified, or until the time is over.
pub(crate) fn wait_timeout<'l, T>(
    condition: &Condvar,
    guard: MutexGuard<'l, T>,
    timeout: Duration,
) -> MutexGuard<'l, T> {
    condition.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
}

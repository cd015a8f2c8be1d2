//! Room state: the persistent map that holds it, and how conflicting states become one.
//!
//! Pure: nothing here reads or writes; callers hand in how events and nodes are fetched.

pub mod map;
pub mod resolution;

//! Room state: the persistent map that stores it, and the resolution of conflicting states.
//!
//! This module is pure: it does no input or output. Callers pass closures that look up events and
//! nodes.

pub mod map;
pub mod resolution;

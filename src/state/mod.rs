//! The state of a room: which state event stands for each (type, state key).
//!
//! Pure knowledge: nothing here reads a disk, a clock or the network.

pub mod resolution;

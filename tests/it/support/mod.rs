//! What several tests need.

pub mod rooms;

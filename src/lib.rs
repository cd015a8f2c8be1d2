//! The history service of a Matrix homeserver.

pub mod proto;
pub mod state;

//! The history service of a Matrix homeserver.

pub mod graph;
pub mod proto;
pub mod state;

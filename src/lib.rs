//! The history service of a Matrix homeserver.

pub mod access;
pub mod graph;
pub mod proto;
pub mod state;
pub mod store;
pub mod visibility;

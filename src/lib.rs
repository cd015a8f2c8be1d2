//! The history service of a Matrix homeserver.

pub mod pdu;
pub mod proto;

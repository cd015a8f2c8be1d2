//! PDUs: events as servers exchange them, in the format of their room version.
//!
//! This module keeps these promises:
//!
//! - An event that parses has every member that its room version demands, of the type demanded.
//! - Its id, hashes, redacted form and signatures are those that the rest of the federation computes.
//!   That includes odd numbers, which only old room versions allow.
//! - Its text is returned as it was received.
//!
//! It never looks at other events, at a clock or at a disk.

mod canonical;
mod error;
mod event;
mod ids;
mod json;
mod lenient;
mod members;
mod read;
mod room_version;
mod server_keys;
mod signatures;
mod unreadable;

pub use self::{
    error::PduError,
    event::{Pdu, redact_stored},
    ids::{BadId, EventId, OpaqueServerName, RoomId, UserId},
    read::{MAX_PDU_BYTES, MAX_RECEIVED_BYTES},
    room_version::{RoomVersion, UnknownRoomVersion},
    server_keys::KeyRing,
    signatures::{BadSignature, ServerKey, SignatureCheck, required_servers, verify_signatures},
    unreadable::{Event, Unreadable, id_of_unreadable},
};

#[cfg(test)]
mod tests;

//! The wire event: one PDU of one room version, read once and never guessed at.
//!
//! Promises: an event that parses has every member its room version demands, in the type it
//! demands; its id, hashes, redacted form and signatures are those the rest of the federation
//! computes, odd numbers of old rooms included; what is handed out is the text that came in.
//! It must never look at other events, at a clock or at a disk.

mod canonical;
mod error;
mod event;
mod ids;
mod json;
mod lenient;
mod members;
mod room_version;
mod server_keys;
mod signatures;
mod span;
mod strict;
mod unreadable;

pub use self::{
    error::{BadJson, PduError},
    event::{MAX_PDU_BYTES, MAX_RECEIVED_BYTES, Pdu, redact_stored},
    ids::{BadId, EventId, RoomId, ServerName, UserId},
    room_version::{RoomVersion, UnknownRoomVersion},
    server_keys::KeyRing,
    signatures::{BadSignature, ServerKey, SignatureCheck, required_servers, verify_signatures},
    unreadable::{Event, Unreadable, id_of_unreadable},
};

#[cfg(test)]
mod tests;

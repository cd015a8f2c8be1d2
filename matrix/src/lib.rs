//! What both programs read of Matrix, read in one place: server names, base64, signing keys, the
//! signatures of JSON objects and the answers that servers give about their keys.
//!
//! Everything is read as Synapse and gomatrixserverlib read it, since whoever they take must be
//! taken here: what cannot be read is left out and named, the rest is used. Pure: no sockets, no
//! files, no clock.

pub mod base64;
mod key_answer;
mod number;
pub mod server_name;
mod signed_object;
mod text;
mod verify_key;

pub use self::{
    key_answer::{AnswerFault, KeyAnswer, LeftOutKey, OldKey},
    number::{Number, Overflow},
    server_name::{ServerName, ServerNameError},
    signed_object::{SignedObject, SignedObjectError},
    text::write_string,
    verify_key::{KeyFault, Signature, VerifyKey, is_signing_key_id, signature},
};

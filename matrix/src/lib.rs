//! Readers of Matrix formats that the history service and the gateway share: server names, base64,
//! strict JSON, the texts of members, signing keys, signatures of JSON objects, and the answers of servers
//! about their keys.
//!
//! All but strict JSON is read as Synapse and gomatrixserverlib read it: a server that they accept must be
//! accepted here. Parts that cannot be read are left out and named, the rest is used. Pure: no
//! sockets, no files, no clock.

pub mod base64;
mod key_answer;
mod member_text;
mod number;
pub mod server_name;
mod signed_object;
mod strict_json;
mod text;
mod verify_key;

pub use self::{
    key_answer::{AnswerFault, KeyAnswer, LeftOutKey, OldKey},
    member_text::{cut_member, members},
    number::{Number, Overflow},
    server_name::{ServerName, ServerNameError},
    signed_object::{SignedObject, SignedObjectError},
    strict_json::{JsonError, JsonFault, MAX_JSON_LEVELS, StrictJson, read_strict_json},
    text::write_string,
    verify_key::{KeyFault, Signature, VerifyKey, is_signing_key_id, signature},
};

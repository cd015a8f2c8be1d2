//! The use case behind `SetUserErased`.

use crate::{
    pdu::UserId,
    store::{Store, StoreError},
};

/// Records that a user asked for erasure, or withdraws that. The change is on disk when this
/// returns. A server that had no joined user in the room after an event gets the events of erased
/// users in their redacted form only.
///
/// # Errors
/// When the change cannot be written; whether it takes effect is then unknown.
pub fn set_user_erased(store: &Store, user_id: &UserId, erased: bool) -> Result<(), StoreError> {
    store.set_erased(user_id.as_str(), erased)
}

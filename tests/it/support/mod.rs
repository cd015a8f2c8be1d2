//! What several tests share.

pub(crate) mod answers;
pub(crate) mod clients;
pub(crate) mod engine;
pub(crate) mod events;
pub(crate) mod failures;
pub(crate) mod faults;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod model;
pub(crate) mod pictures;
pub(crate) mod process;
pub(crate) mod rooms;
pub(crate) mod services;
pub(crate) mod worlds;

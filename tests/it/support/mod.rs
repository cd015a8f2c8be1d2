//! What several tests need.

pub(crate) mod answers;
pub(crate) mod builder;
pub(crate) mod clients;
pub(crate) mod faults;
pub(crate) mod federation;
pub(crate) mod folders;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod model;
pub(crate) mod numbers;
pub(crate) mod process;
pub(crate) mod rooms;
pub(crate) mod rounds;
pub(crate) mod services;
pub(crate) mod worlds;

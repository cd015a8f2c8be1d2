//! Follows the PostgreSQL database of a Synapse homeserver, and keeps a Backscroll history service equal
//! to it. It only reads the database, in short transactions.
//!
//! ```text
//!  cli ──► check                   is this role, this schema, this version one that can be followed?
//!   │  └─► export                  room files, straight from the database
//!   └────► follow ──► tail         the tick: what is new, what has changed
//!            │   └──► late         what the invalidation stream tells
//!            ├──────► import       whole rooms
//!            ├──────► reconcile    one room again, until it is equal
//!            └──────► sweep        all rooms, one after the other
//!                       │
//!              ┌────────┴────────┐
//!              ▼                 ▼
//!          database           history
//!          (PostgreSQL)       (gRPC)
//! ```
//!
//! Nothing is kept on disk here: the cursor is in the history service.

pub mod cli;

mod check;
mod database;
mod digest;
mod export;
mod follow;
mod health;
mod history;
mod metrics;
pub mod proto;

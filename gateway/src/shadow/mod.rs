//! Compares the homeserver's answers with those of the history service. Both are asked, one of them
//! answers at once, and the answers are compared afterwards.
//!
//! ```text
//!  a request ──► begin           whether it is compared
//!            ──► sides           what each has answered
//!            ──► comparison      the same, or a difference that is still there when both are asked again
//!                  ══gRPC══►     CompareAnswers: whether deliberate differences explain it
//!            ──► results         counts, times and the last unexplained differences
//!                  └──► report   what an operator reads of them
//! ```
//!
//! A comparison never delays or changes an answer. Only so many run at the same time; further requests
//! are not compared. Content is never kept: only hashes of events are, and the homeserver's events until
//! they are compared.

mod begin;
mod comparison;
mod digests;
mod observed;
mod options;
mod report;
mod results;
mod sides;

pub(crate) use self::{
    begin::{Comparison, Shadow},
    sides::HistorySide,
};
pub use self::{
    options::{Answerer, ShadowFlags, ShadowOptions},
    report::ShadowReportFlags,
    results::ShadowResults,
};

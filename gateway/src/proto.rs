//! The types generated from `proto/`. `history`, `routes`, `error` and the tests use them.

/// The types of the package `backscroll.history.v1`.
#[expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::as_conversions,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("backscroll.history.v1");
}

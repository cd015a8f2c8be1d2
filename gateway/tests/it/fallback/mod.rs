//! The gateway beside a homeserver: which requests the homeserver gets, in which form, and what the client
//! gets of its answers.

mod bounds;
mod forwarding;
mod pass_through;
mod rules;
mod streaming;

const TARGET: &str = "/_matrix/federation/v1/backfill/!r:us.example?v=$a&limit=1";
const MISSING: &str = "/_matrix/federation/v1/get_missing_events/!r:us.example";

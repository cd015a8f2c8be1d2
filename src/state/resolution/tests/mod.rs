//! Tests of state resolution: drawn graphs, and every recorded room.

mod recorded;
mod replay;

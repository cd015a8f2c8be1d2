//! Tests of state resolution: drawn graphs, random graphs, and every recorded room.

mod drawing;
mod drawn;
mod random;
mod recorded;
mod replay;
mod ways;

//! Tests of state resolution: drawn graphs, and every recorded room.

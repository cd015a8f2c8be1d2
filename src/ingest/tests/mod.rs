//! Tests of all steps together.

mod conflicts;

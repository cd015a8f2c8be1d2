//! Tests of whole events; what one file does is tested in that file.

mod recorded;

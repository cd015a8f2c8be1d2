//! The service as its users meet it, on rooms recorded from a real homeserver.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod append_events;
mod arbitrary;
mod backup;
mod callers;
mod command_line;
mod convergence;
mod cut_off;
mod dashboards;
mod deadlines;
mod deletions;
mod docs;
mod formats;
mod full_disk;
mod grafts;
mod graph;
mod history_service;
mod layering;
mod leaks;
mod odd_files;
mod operations;
mod pages;
mod power;
mod purge;
mod recorded;
mod restart;
mod rot;
mod server_keys;
mod state_later;
mod support;
mod traces;
mod unreadable;
mod verify;

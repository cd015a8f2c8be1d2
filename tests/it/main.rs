//! The history service from outside: its RPCs over a socket, its commands, its store after crashes, and
//! its use cases on recorded and on random rooms. Files with the name of an RPC test that RPC.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod append_events;
mod arbitrary;
mod backfill;
mod backup;
mod backup_late;
mod batch_get_events;
mod beside;
mod callers;
mod command_line;
mod compare_answers;
mod convergence;
mod cut_off;
mod dashboards;
mod deadlines;
mod delete_room;
mod deletions;
mod docs;
mod explain_access;
mod feeder;
mod feeder_killed;
mod feeder_silent;
mod formats;
mod full_disk;
mod get_missing_events;
mod get_room;
mod get_room_digest;
mod get_state;
mod grafts;
mod graph;
mod health;
mod late_killed;
mod layering;
mod leaks;
mod list_events;
mod list_purged_events;
mod list_rooms;
mod operations;
mod pages;
mod power;
mod purge;
mod purge_history;
mod recorded;
mod remove_events;
mod replace;
mod restart;
mod room_files;
mod rot;
mod server_keys;
mod set_ban_redaction;
mod set_rooms_served;
mod set_user_erased;
mod several;
mod shadow;
mod state_later;
mod support;
mod traces;
mod unreadable;
mod verify;

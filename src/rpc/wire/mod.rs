//! Converts between proto messages and the types of the use cases. Requests and results are
//! destructured field by field, so that a new field does not compile until it is converted.

mod admin;
mod ban_redaction;
mod compare;
mod feeder;
mod history;
mod ingest;

pub(super) use admin::{fault, list_rooms_not_served_response, stats_response};
pub(super) use ban_redaction::{NewBan, list_ban_redactions_response, new_ban};
pub(super) use compare::{compare_answers, compare_answers_response, compared_bounds};
pub(super) use feeder::{feed_report, feeder_bounds, get_feeder_response};
pub(super) use history::{
    backfill, backfill_response, batch_get_events_response, explain_access_response,
    get_missing_events, get_missing_events_response, get_room_digest_response, get_room_response,
    get_state_response, list_erased_members_response, list_event_flags_response,
    list_events_response, list_purged_events_response, list_rooms_response,
    list_state_after_response, server_names,
};
pub(super) use ingest::{
    append_events_response, check_append, delete_room_response, new_event, not_served_reason,
    purge_history_response, refusal_name, remove_events_response, set_rooms_served,
};

/// The most bytes of a text for people. Some repeat a value of the request, which may be long.
pub(super) const MAX_TEXT: usize = 1_024;

/// Cuts a text off at [`MAX_TEXT`] bytes or a little before.
pub(super) fn brief(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

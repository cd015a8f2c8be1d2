//! Says what appending some events is about to read.

use super::check::{Checked, CheckedBeforeLock};
use crate::{
    pdu::{Event, EventId},
    state::map::MapKey,
    store::{Edit, ExpectedEvent, StoreError, View as _},
};

/// These events are about to be appended to the room of an edit.
pub(super) fn events(edit: &Edit<'_>, events: &[CheckedBeforeLock<'_>]) -> Result<(), StoreError> {
    if !edit.reads_ahead() {
        return Ok(());
    }
    let checked: Vec<_> = events.iter().filter_map(CheckedBeforeLock::checked).collect();
    edit.expect_events(&checked.iter().map(|it| expected(it)).collect::<Vec<_>>())
}

fn expected(checked: &Checked) -> ExpectedEvent<'_> {
    let event = &checked.event;
    let redacts = event.pdu().and_then(|it| it.redacts());
    let mut names: Vec<&str> = event.prev_events().iter().map(EventId::as_str).collect();
    names.extend(redacts.map(EventId::as_str));
    let is_redaction = redacts.is_some();
    let mut entries = Vec::new();
    if is_redaction {
        entries.push(MapKey::of_state("m.room.power_levels", ""));
        entries.push(MapKey::of_state("m.room.create", ""));
    }
    entries.extend(own_entries(event));
    ExpectedEvent { event_id: event.event_id().as_str(), names, is_redaction, entries }
}

/// The entries of the state that an event changes.
fn own_entries(event: &Event) -> Vec<MapKey> {
    let Some((event_type, state_key)) = event.state_entry() else { return Vec::new() };
    let mut entries = vec![MapKey::of_state(event_type, state_key)];
    if event_type == "m.room.member"
        && let Some((_, server)) = state_key.split_once(':')
    {
        entries.push(MapKey::of_server(server));
    }
    entries
}

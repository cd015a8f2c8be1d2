//! The command `backscroll state`.

use std::io::Write as _;

use super::{
    ServerArgs,
    client::{connect, for_each_page, message},
    out,
};
use crate::proto::v1 as pb;

/// Entries on one page.
const PAGE_SIZE: u32 = 5_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints one line for each entry, sorted: TYPE TAB STATE_KEY TAB EVENT_ID. A type or state key with control
characters is printed as in JSON, without the quotes.")]
pub(super) struct StateArgs {
    #[command(flatten)]
    server: ServerArgs,

    /// The id of the room.
    #[arg(value_name = "ROOM_ID")]
    room_id: String,

    /// Print the state after this event. By default the current state.
    #[arg(value_name = "EVENT_ID")]
    event_id: Option<String>,
}

pub(super) async fn run(args: StateArgs) -> anyhow::Result<()> {
    let StateArgs { server, room_id, event_id } = args;
    let mut history = connect(&server).await?.history;
    let event_id = event_id.unwrap_or_default();
    let mut entries = Vec::new();
    for_each_page(async |page_token| {
        let request = pb::GetStateRequest {
            room_id: room_id.clone(),
            event_id: event_id.clone(),
            page_size: PAGE_SIZE,
            page_token,
        };
        let page = message(history.get_state(request).await)?;
        let columns = |it: pb::StateEntry| (it.r#type, it.state_key, it.event_id);
        entries.extend(page.entries.into_iter().map(columns));
        Ok(page.next_page_token)
    })
    .await?;
    entries.sort();
    let mut out = out::text();
    for (event_type, state_key, event_id) in entries {
        writeln!(out, "{}\t{}\t{event_id}", printable(&event_type), printable(&state_key))?;
    }
    out.flush()?;
    Ok(())
}

/// The text, escaped as in JSON if it has control characters, which could break the line.
fn printable(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let quoted = serde_json::Value::from(text).to_string();
    let inside = quoted.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    inside.unwrap_or(&quoted).to_owned()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn control_characters_are_escaped_and_nothing_else() {
        assert_eq!(printable("é key/with?odd&chars \"\\"), "é key/with?odd&chars \"\\");
        assert_eq!(printable("a\tb\n\"\u{1}"), "a\\tb\\n\\\"\\u0001");
    }
}

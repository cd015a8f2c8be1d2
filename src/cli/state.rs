//! `backscroll state`.

use std::io::Write as _;

use super::{
    ServerArgs,
    client::{connect, told},
    out,
};
use crate::proto::v1 as pb;

/// Entries asked for at once.
const PAGE: u32 = 5_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
One line an entry, TYPE TAB STATE_KEY TAB EVENT_ID, sorted. A type or state key that holds control
characters is printed as JSON escapes it, without the quotes.")]
pub(super) struct Args {
    #[command(flatten)]
    server: ServerArgs,

    /// The room.
    #[arg(value_name = "ROOM_ID")]
    room_id: String,

    /// The event after which the state is wanted. Left out: the current state.
    #[arg(value_name = "EVENT_ID")]
    event_id: Option<String>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { server, room_id, event_id } = args;
    let mut history = connect(&server).await?.history;
    let event_id = event_id.unwrap_or_default();
    let (mut entries, mut page_token) = (Vec::new(), String::new());
    loop {
        let (room_id, event_id) = (room_id.clone(), event_id.clone());
        let request = pb::GetStateRequest { room_id, event_id, page_size: PAGE, page_token };
        let page = history.get_state(request).await.map_err(|status| told(&status))?;
        let page = page.into_inner();
        let of = |it: pb::StateEntry| (it.r#type, it.state_key, it.event_id);
        entries.extend(page.entries.into_iter().map(of));
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    entries.sort();
    let mut out = out::text();
    for (event_type, state_key, event_id) in entries {
        writeln!(out, "{}\t{}\t{event_id}", printable(&event_type), printable(&state_key))?;
    }
    out.flush()?;
    Ok(())
}

/// The text itself, or what JSON makes of it where it would break the line.
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

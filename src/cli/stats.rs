//! The command `backscroll stats`.

use std::{io::Write as _, time::Duration};

use indicatif::{HumanBytes, HumanCount, HumanDuration};

use super::{
    ServerArgs,
    client::{connect, message},
    out,
};
use crate::{proto::v1 as pb, rpc::now_ms};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Gaps are references to events that are not in the graph. A wide room has many forward extremities: its
servers cannot agree, or events are missing. The slowest walks are those since the service started, one
for each room. The same numbers over time are metrics: see `backscroll serve --metrics-listen`.")]
pub(super) struct StatsArgs {
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn run(args: StatsArgs) -> anyhow::Result<()> {
    let mut admin = connect(&args.server).await?.admin;
    let stats = message(admin.stats(pb::StatsRequest {}).await)?;
    let mut out = out::text();
    write!(out, "{}", Printed(&stats))?;
    Ok(out.flush()?)
}

/// Statistics as text for people.
struct Printed<'a>(&'a pb::StatsResponse);

impl std::fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stats = self.0;
        let per_event = stats.store_bytes / stats.event_count.max(1);
        writeln!(f, "rooms                {}", HumanCount(stats.room_count))?;
        writeln!(f, "events               {}", HumanCount(stats.event_count))?;
        writeln!(f, "forward extremities  {}", HumanCount(stats.forward_extremity_count))?;
        writeln!(f, "gaps                 {}", HumanCount(stats.gap_count))?;
        writeln!(f, "waiting for state    {}", HumanCount(stats.waiting_event_count))?;
        writeln!(f, "unreadable events    {}", HumanCount(stats.unreadable_event_count))?;
        let unknown = HumanCount(stats.state_unknown_room_count);
        writeln!(f, "state unknown        {unknown} rooms")?;
        let not_served = HumanCount(stats.not_served_room_count);
        writeln!(f, "not served           {not_served} rooms")?;
        let content = HumanCount(stats.redacted_content_count);
        let oldest = age(stats.oldest_redacted_ts);
        writeln!(f, "redacted content     {content} events{oldest}")?;
        let (store, free) = (HumanBytes(stats.store_bytes), HumanBytes(stats.free_bytes));
        writeln!(f, "on disk              {store}, {per_event} bytes an event; {free} free")?;
        writeln!(f, "durable              {}", stats.durability)?;
        if !stats.widest_rooms.is_empty() {
            writeln!(f, "\nwidest rooms\n  {:>11}  {:>9}  room", "extremities", "events")?;
        }
        for pb::WideRoom { room_id, forward_extremity_count, event_count } in &stats.widest_rooms {
            writeln!(
                f,
                "  {forward_extremity_count:>11}  {event_count:>9}  {}",
                printable(room_id)
            )?;
        }
        if !stats.state_unknown_rooms.is_empty() {
            writeln!(
                f,
                "\nrooms whose state is not known, and the events that need `state_after`"
            )?;
        }
        for room in &stats.state_unknown_rooms {
            let access = if room.uses_last_known_state {
                "served by the last known state"
            } else {
                "not served to other servers"
            };
            writeln!(f, "  {} ({access})", printable(&room.room_id))?;
            for event_id in &room.state_needed_event_ids {
                writeln!(f, "    {}", printable(event_id))?;
            }
        }
        if !stats.slowest_walks.is_empty() {
            writeln!(
                f,
                "\nslowest walks\n  {:>11}  {:>9}  room, question, server",
                "ms", "visited"
            )?;
        }
        for walk in &stats.slowest_walks {
            let ms = milliseconds(walk.duration.as_ref());
            let origin = if walk.origin.is_empty() { "an internal caller" } else { &walk.origin };
            let question = match walk.kind() {
                pb::WalkKind::Backfill => "backfill",
                pb::WalkKind::GetMissingEvents => "get_missing_events",
                pb::WalkKind::Unspecified => "unknown",
            };
            let room = printable(&walk.room_id);
            let visited = walk.visited_event_count;
            writeln!(f, "  {ms:>11.1}  {visited:>9}  {room} {question} {}", printable(origin))?;
        }
        Ok(())
    }
}

/// How long ago the oldest redacted event was seen that has its content on disk; empty for zero.
fn age(oldest_redacted_ts: u64) -> String {
    if oldest_redacted_ts == 0 {
        return String::new();
    }
    let age = Duration::from_millis(now_ms().saturating_sub(oldest_redacted_ts));
    format!(", the oldest redacted {} ago", HumanDuration(age))
}

fn milliseconds(duration: Option<&prost_types::Duration>) -> f64 {
    let duration = duration.and_then(|it| Duration::try_from(*it).ok()).unwrap_or_default();
    duration.as_secs_f64() * 1_000.0
}

/// A text that a caller chose, without the control characters that could change the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { '\u{fffd}' } else { it }).collect()
}

//! Describes the picture in the language of Graphviz, for a layout by other programs:
//! `backscroll graph ROOM | dot -Tsvg`.

use std::collections::BTreeSet;

use super::{DrawnEvent, MAX_GAPS, Picture, clipped, short};

/// Describes a picture in the language of Graphviz.
#[must_use]
pub fn dot(picture: &Picture) -> String {
    let mut out = format!(
        "digraph room {{\n  label={};\n  rankdir=BT;\n  node [fontname=monospace, fontsize=10];\n",
        quoted(&picture.room_id)
    );
    let mut events: Vec<&DrawnEvent> = picture.events.iter().collect();
    events.sort_by_key(|it| (it.arrival, &it.event_id));
    let ids: BTreeSet<&str> = events.iter().map(|it| &*it.event_id).collect();
    for event in &events {
        out.push_str(&node(event));
    }
    let mut gaps = BTreeSet::new();
    for event in events.iter().filter(|it| !it.marks.outlier) {
        for prev in event.prev_events.iter().map(|it| &**it) {
            let missing = picture.missing.contains(prev);
            if missing && !ids.contains(prev) && (gaps.contains(prev) || gaps.len() < MAX_GAPS) {
                gaps.insert(prev);
            }
            if ids.contains(prev) || gaps.contains(prev) {
                out.push_str(&format!("  {} -> {};\n", quoted(&event.event_id), quoted(prev)));
            }
        }
    }
    for gap in gaps {
        let id = quoted(gap);
        let label = quoted(&format!("{}\nmissing", short(gap)));
        out.push_str(&format!("  {id} [label={label}, shape=circle, style=dashed];\n"));
    }
    out.push_str("}\n");
    out
}

fn node(event: &DrawnEvent) -> String {
    let DrawnEvent { event_id, event_type, sender, state_key, marks, .. } = event;
    let key = state_key.as_ref().filter(|it| !it.is_empty());
    let key = key.map_or_else(String::new, |it| format!(" {it}"));
    let words: Vec<&str> = marks.words().collect();
    let label = format!("{}\n{event_type}{key}\n{sender}\n{}", short(event_id), words.join(", "));
    let shape = if state_key.is_some() { "box" } else { "ellipse" };
    let colour = match (marks.rejected || marks.unreadable, marks.soft_failed) {
        (true, _) => "red",
        (_, true) => "orange",
        _ => "black",
    };
    let style = if marks.outlier || marks.redacted { "dashed" } else { "solid" };
    let rings = if marks.extremity { 2 } else { 1 };
    format!(
        "  {} [label={}, shape={shape}, color={colour}, style={style}, peripheries={rings}];\n",
        quoted(event_id),
        quoted(label.trim_end()),
    )
}

/// A quoted string of Graphviz. Line breaks become escapes; other backslashes stay literal.
fn quoted(text: &str) -> String {
    let lines = text.split('\n').map(|line| {
        let line = clipped(line, usize::MAX);
        line.replace('\\', "\\\\").replace('"', "\\\"")
    });
    format!("\"{}\"", lines.collect::<Vec<_>>().join("\\n"))
}

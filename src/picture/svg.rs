//! Draws the picture as SVG, without Graphviz. It has a background of its own, so it is readable on
//! light and dark pages; every mark is also written as a word.

use super::{
    DrawnEvent, Marks, Picture, clipped,
    lanes::{EdgeLine, Layout, Row, Symbol, layout},
    short,
};

/// The margin around the picture, in pixels.
const MARGIN: usize = 24;
/// The height of a row, in pixels.
const ROW: usize = 28;
/// The width of a lane, in pixels.
const LANE: usize = 20;
/// The height of the head above the first row, in pixels.
const HEAD: usize = 80;
/// The width of a monospaced character, in hundredths of a pixel.
const CHARACTER: usize = 723;
/// The most characters of an event type; longer ones are cut.
const MAX_TYPE: usize = 30;
/// The most characters of a state key.
const MAX_STATE_KEY: usize = 26;
/// The most characters of a sender.
const MAX_SENDER: usize = 32;
/// The colours of branches, which are easy to distinguish on white.
const BRANCHES: [&str; 7] =
    ["#0969da", "#1a7f37", "#8250df", "#bc4c00", "#bf3989", "#0e7c86", "#7d6608"];

const STYLE: &str = "\
text{font:12px ui-monospace,SFMono-Regular,Menlo,'DejaVu Sans Mono',Consolas,monospace;fill:#1f2328}\
.title{font-size:15px;font-weight:600}.quiet{fill:#656d76}.type{font-weight:600}\
.gone{fill:#656d76;text-decoration:line-through}.edge{fill:none;stroke-width:2}\
.chip{font-size:10.5px}";

/// Draws a picture as SVG.
#[must_use]
pub fn svg(picture: &Picture) -> String {
    let layout = layout(picture);
    let columns = Columns::new(picture, &layout);
    let rows = layout.rows.len() + layout.loose.len() + usize::from(!layout.loose.is_empty());
    let legend = legend(picture, &layout);
    let bottom = HEAD + rows * ROW + 16;
    let height = bottom + legend.len().div_ceil(columns.legend_columns) * 24 + 20;
    let width = columns.width;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n<style>{STYLE}</style>\n\
         <title>Event graph of {}</title>\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"10\" fill=\"#ffffff\" \
         stroke=\"#d0d7de\"/>\n",
        escaped(&picture.room_id),
        width - 1,
        height - 1,
    );
    columns.head(&mut out, picture, &layout);
    for (position, row) in layout.rows.iter().enumerate() {
        columns.stripe(&mut out, position, is_around(picture, row));
    }
    for edge in &layout.edges {
        columns.edge(&mut out, *edge, &layout);
    }
    for (position, row) in layout.rows.iter().enumerate() {
        columns.row(&mut out, position, row);
    }
    let mut position = layout.rows.len();
    if !layout.loose.is_empty() {
        let y = middle(position) + 4;
        out.push_str(&format!(
            "<text class=\"quiet\" x=\"{MARGIN}\" y=\"{y}\">outliers: held, not placed in the graph</text>\n"
        ));
        position += 1;
    }
    for (position, event) in (position..).zip(&layout.loose) {
        columns.stripe(&mut out, position, false);
        columns.event(&mut out, Point { x: centre(0), y: middle(position) }, "#8c959f", event);
    }
    columns.legend(&mut out, bottom, &legend);
    out.push_str("</svg>\n");
    out
}

fn is_around(picture: &Picture, row: &Row<'_>) -> bool {
    matches!(row.symbol, Symbol::Event(event) if picture.around.as_ref() == Some(&event.event_id))
}

/// A point in the picture, in pixels from the upper left corner.
#[derive(Clone, Copy)]
struct Point {
    x: usize,
    y: usize,
}

/// Where the columns of the picture begin, in pixels from the left.
struct Columns {
    ids: usize,
    depths: usize,
    types: usize,
    senders: usize,
    chips: usize,
    width: usize,
    legend_columns: usize,
}

impl Columns {
    fn new(picture: &Picture, layout: &Layout<'_>) -> Self {
        let widest = |of: &dyn Fn(&DrawnEvent) -> usize| picture.events.iter().map(of).max();
        let types = |it: &DrawnEvent| {
            let key = it.state_key.as_ref().filter(|it| !it.is_empty());
            let key = key.map_or(0, |it| clipped(it, MAX_STATE_KEY).chars().count() + 2);
            clipped(&it.event_type, MAX_TYPE).chars().count() + key
        };
        let sender = |it: &DrawnEvent| clipped(&it.sender, MAX_SENDER).chars().count();
        let ids = MARGIN + layout.lanes.max(1) * LANE + 8;
        let depths = ids + wide(15);
        let after_depths = depths + wide(2);
        let senders = after_depths + wide(widest(&types).unwrap_or(10) + 3);
        let chips = senders + wide(widest(&sender).unwrap_or(10) + 3);
        let words = widest(&|it| it.marks.words().map(|it| it.len() + 3).sum()).unwrap_or(0);
        let width = (chips + wide(words)).max(720) + MARGIN;
        let legend_columns = ((width - 2 * MARGIN) / LEGEND).max(1);
        Self { ids, depths, types: after_depths, senders, chips, width, legend_columns }
    }

    fn head(&self, out: &mut String, picture: &Picture, layout: &Layout<'_>) {
        let Picture { room_id, room_version, held, events, .. } = picture;
        let gaps = layout.rows.iter().filter(|it| matches!(it.symbol, Symbol::Gap(_))).count();
        let most = (self.width - 2 * MARGIN) * 100 / CHARACTER * 4 / 5;
        let room_id = escaped(&clipped(room_id, most));
        let version = escaped(&clipped(room_version, 20));
        let drawn = events.len();
        let missing = if gaps == 0 { String::new() } else { format!(" · {gaps} missing") };
        out.push_str(&format!(
            "<text class=\"title\" x=\"{MARGIN}\" y=\"36\">{room_id}</text>\n\
             <text class=\"quiet\" x=\"{MARGIN}\" y=\"58\">room version {version} · {drawn} of \
             {held} events, newest first{missing}</text>\n"
        ));
    }

    /// Draws the background of a row.
    fn stripe(&self, out: &mut String, position: usize, is_chosen: bool) {
        let fill = match (is_chosen, position % 2) {
            (true, _) => "#fff8c5",
            (false, 0) => "#f6f8fa",
            _ => return,
        };
        let y = HEAD + position * ROW;
        let width = self.width - 16;
        out.push_str(&format!(
            "<rect x=\"8\" y=\"{y}\" width=\"{width}\" height=\"{ROW}\" rx=\"5\" fill=\"{fill}\"/>\n"
        ));
    }

    fn edge(&self, out: &mut String, edge: EdgeLine, layout: &Layout<'_>) {
        let EdgeLine { from, via, to, branch } = edge;
        let (Some(first), Some(last)) = (layout.rows.get(from), layout.rows.get(to)) else {
            return;
        };
        let dashed =
            if matches!(last.symbol, Symbol::Gap(_)) { " stroke-dasharray=\"3 3\"" } else { "" };
        let colour = colour(branch);
        let mut y = middle(from);
        let mut path = format!("M{} {y}", centre(first.lane));
        let mut lane = first.lane;
        // Into the lane in the first row, along it, and out of it in the last row.
        let turns = if to == from + 1 {
            vec![(last.lane, to)]
        } else {
            vec![(via, from + 1), (via, to - 1), (last.lane, to)]
        };
        for (next, row) in turns {
            let x = centre(next);
            let below = middle(row);
            if next == lane {
                path.push_str(&format!("V{below}"));
            } else {
                let half = usize::midpoint(y, below);
                path.push_str(&format!("C{} {half} {x} {half} {x} {below}", centre(lane)));
            }
            lane = next;
            y = below;
        }
        out.push_str(&format!("<path class=\"edge\" stroke=\"{colour}\"{dashed} d=\"{path}\"/>\n"));
    }

    fn row(&self, out: &mut String, position: usize, row: &Row<'_>) {
        let at = Point { x: centre(row.lane), y: middle(position) };
        let Point { x, y } = at;
        let colour = colour(row.branch);
        if row.beyond > 0 {
            let end_x = x + 9;
            let end_y = y + 15;
            out.push_str(&format!(
                "<path class=\"edge\" stroke=\"{colour}\" stroke-dasharray=\"1.5 3\" \
                 d=\"M{x} {y}L{end_x} {end_y}\"/>\n"
            ));
        }
        match row.symbol {
            Symbol::Event(event) => self.event(out, at, colour, event),
            Symbol::Gap(event_id) => {
                out.push_str(&format!("<g><title>{}</title>\n", escaped(event_id)));
                gap(out, at);
                let Self { ids, types, .. } = self;
                let id = escaped(&short(event_id));
                let y = y + 4;
                out.push_str(&format!(
                    "<text class=\"quiet\" x=\"{ids}\" y=\"{y}\">{id}</text>\
                     <text class=\"quiet\" x=\"{types}\" y=\"{y}\">referenced, not in the graph</text></g>\n"
                ));
            }
        }
    }

    fn event(&self, out: &mut String, at: Point, colour: &str, event: &DrawnEvent) {
        let y = at.y;
        out.push_str(&format!("<g><title>{}</title>\n", escaped(&event.event_id)));
        node(out, at, colour, event.state_key.is_some(), event.marks);
        let Self { ids, depths, types, senders, chips, .. } = self;
        let id = escaped(&short(&event.event_id));
        let depth = event.depth;
        let class = if event.marks.redacted { "gone" } else { "type" };
        let kind = escaped(&clipped(&event.event_type, MAX_TYPE));
        let key = event.state_key.as_ref().filter(|it| !it.is_empty());
        let key = key.map_or_else(String::new, |it| {
            format!(
                "<tspan class=\"quiet\" dx=\"9\">{}</tspan>",
                escaped(&clipped(it, MAX_STATE_KEY))
            )
        });
        let sender = escaped(&clipped(&event.sender, MAX_SENDER));
        let base = y + 4;
        out.push_str(&format!(
            "<text x=\"{ids}\" y=\"{base}\">{id}</text>\
             <text class=\"quiet\" x=\"{depths}\" y=\"{base}\" text-anchor=\"end\">{depth}</text>\
             <text x=\"{types}\" y=\"{base}\"><tspan class=\"{class}\">{kind}</tspan>{key}</text>\
             <text class=\"quiet\" x=\"{senders}\" y=\"{base}\">{sender}</text>\n"
        ));
        let mut x = *chips;
        for word in event.marks.words() {
            let (text, back) = chip_colours(word);
            let width = wide(word.len()) * 9 / 10 + 12;
            let top = y - 9;
            let text_x = x + 6;
            out.push_str(&format!(
                "<rect x=\"{x}\" y=\"{top}\" width=\"{width}\" height=\"18\" rx=\"9\" fill=\"{back}\"/>\
                 <text class=\"chip\" x=\"{text_x}\" y=\"{base}\" style=\"fill:{text}\">{word}</text>\n"
            ));
            x += width + 6;
        }
        out.push_str("</g>\n");
    }

    fn legend(&self, out: &mut String, top: usize, entries: &[(Sample, &str)]) {
        for (nth, (sample, words)) in entries.iter().enumerate() {
            let x = MARGIN + nth % self.legend_columns * LEGEND + 8;
            let y = top + nth / self.legend_columns * 24 + 8;
            let at = Point { x, y };
            match sample {
                Sample::Node { is_state, marks } => node(out, at, "#57606a", *is_state, *marks),
                Sample::Gap => gap(out, at),
            }
            let x = x + 16;
            let y = y + 4;
            out.push_str(&format!("<text class=\"quiet\" x=\"{x}\" y=\"{y}\">{words}</text>\n"));
        }
    }
}

/// The width of an entry of the legend, in pixels.
const LEGEND: usize = 176;

/// A symbol of the legend.
enum Sample {
    Node { is_state: bool, marks: Marks },
    Gap,
}

/// The symbols that the picture contains, with their meanings.
fn legend(picture: &Picture, layout: &Layout<'_>) -> Vec<(Sample, &'static str)> {
    let none = Marks::default();
    let marked = |is: fn(Marks) -> bool| picture.events.iter().any(|it| is(it.marks));
    let is_gap = |it: &Row<'_>| matches!(it.symbol, Symbol::Gap(_));
    let event = |marks| Sample::Node { is_state: false, marks };
    let entries = [
        (true, event(none), "event"),
        (true, Sample::Node { is_state: true, marks: none }, "state event"),
        (marked(|it| it.extremity), event(Marks { extremity: true, ..none }), "forward extremity"),
        (marked(|it| it.redacted), event(Marks { redacted: true, ..none }), "redacted"),
        (marked(|it| it.rejected), event(Marks { rejected: true, ..none }), "rejected"),
        (marked(|it| it.soft_failed), event(Marks { soft_failed: true, ..none }), "soft-failed"),
        (marked(|it| it.unreadable), event(Marks { unreadable: true, ..none }), "unreadable"),
        (!layout.loose.is_empty(), event(Marks { outlier: true, ..none }), "outlier"),
        (layout.rows.iter().any(is_gap), Sample::Gap, "missing predecessor"),
    ];
    let there = entries.into_iter().filter(|(is, _, _)| *is);
    there.map(|(_, sample, words)| (sample, words)).collect()
}

/// Draws a node. The shape shows whether it is a state event, the fill shows its marks.
fn node(out: &mut String, at: Point, colour: &str, is_state: bool, marks: Marks) {
    let Point { x, y } = at;
    if marks.extremity {
        out.push_str(&format!(
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"10\" fill=\"#ffffff\" stroke=\"{colour}\" \
             stroke-width=\"1.5\"/>\n"
        ));
    }
    let (fill, stroke, more) = match marks {
        Marks { rejected: true, .. } | Marks { unreadable: true, .. } => ("#ffffff", "#cf222e", ""),
        Marks { outlier: true, .. } => ("#ffffff", "#8c959f", " stroke-dasharray=\"2 2\""),
        Marks { soft_failed: true, .. } => ("#fae17d", "#9a6700", ""),
        Marks { redacted: true, .. } => ("#ffffff", colour, ""),
        _ => (colour, colour, ""),
    };
    let paint = format!("fill=\"{fill}\" stroke=\"{stroke}\" stroke-width=\"2\"{more}");
    if is_state {
        out.push_str(&format!(
            "<path {paint} d=\"M{x} {top}L{right} {y}L{x} {bottom}L{left} {y}Z\"/>\n",
            left = x - 6,
            right = x + 6,
            top = y - 6,
            bottom = y + 6,
        ));
    } else {
        out.push_str(&format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"5\" {paint}/>\n"));
    }
    let left = x - 2;
    let right = x + 2;
    if marks.rejected {
        out.push_str(&format!(
            "<path stroke=\"#cf222e\" stroke-width=\"1.6\" \
             d=\"M{left} {top}L{right} {bottom}M{left} {bottom}L{right} {top}\"/>\n",
            top = y - 2,
            bottom = y + 2,
        ));
    } else if marks.redacted {
        out.push_str(&format!(
            "<path stroke=\"{stroke}\" stroke-width=\"1.6\" d=\"M{left} {y}H{right}\"/>\n"
        ));
    }
}

fn gap(out: &mut String, at: Point) {
    let Point { x, y } = at;
    out.push_str(&format!(
        "<circle cx=\"{x}\" cy=\"{y}\" r=\"6\" fill=\"#ffffff\" stroke=\"#cf222e\" \
         stroke-width=\"1.5\" stroke-dasharray=\"2.5 2\"/>\n"
    ));
}

fn chip_colours(word: &str) -> (&'static str, &'static str) {
    match word {
        "extremity" => ("#0550ae", "#ddf4ff"),
        "rejected" | "unreadable" => ("#a40e26", "#ffebe9"),
        "soft-failed" => ("#7d4e00", "#fff1b8"),
        _ => ("#57606a", "#eaeef2"),
    }
}

fn colour(branch: usize) -> &'static str {
    BRANCHES.get(branch % BRANCHES.len()).copied().unwrap_or_default()
}

fn centre(lane: usize) -> usize {
    MARGIN + lane * LANE + 6
}

fn middle(row: usize) -> usize {
    HEAD + row * ROW + ROW / 2
}

/// The width of a number of characters, in pixels.
fn wide(characters: usize) -> usize {
    characters * CHARACTER / 100
}

/// Escapes text for XML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in clipped(text, usize::MAX).chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            other => out.push(other),
        }
    }
    out
}

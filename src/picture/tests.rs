//! The picture of a drawn graph, and properties that hold for every graph.

use proptest::prelude::*;

use super::{
    lanes::{Symbol, layout},
    *,
};

fn event(name: &str, depth: i64, prev_events: &[&str]) -> DrawnEvent {
    DrawnEvent {
        event_id: format!("${name}"),
        event_type: "m.room.message".to_owned(),
        sender: "@alice:a.example".to_owned(),
        depth,
        arrival: depth * 10 + i64::try_from(name.len()).unwrap(),
        prev_events: prev_events.iter().map(|it| format!("${it}")).collect(),
        ..DrawnEvent::default()
    }
}

/// ```text
/// (gone) ◄─ create ◄─ left ◄──── merge ◄─ end
///              ▲───── right ◄──────┘ ▲─── rejected
/// ```
/// with all marks, and texts that contain markup.
fn drawn() -> Picture {
    let state = |event: DrawnEvent, event_type: &str, state_key: &str| DrawnEvent {
        event_type: event_type.to_owned(),
        state_key: Some(state_key.to_owned()),
        ..event
    };
    let marked = |event: DrawnEvent, marks: Marks| DrawnEvent { marks, ..event };
    let none = Marks::default();
    let events = vec![
        state(event("create", 1, &["gone"]), "m.room.create", ""),
        marked(event("left", 2, &["create"]), Marks { redacted: true, ..none }),
        state(event("right", 2, &["create"]), "m.room.member", "@<b>&\"'\u{202e}:x"),
        event("merge", 3, &["left", "right", "beyond"]),
        marked(event("rejected", 4, &["merge"]), Marks { rejected: true, ..none }),
        marked(event("soft", 4, &["merge"]), Marks { soft_failed: true, ..none }),
        marked(event("end", 4, &["merge"]), Marks { extremity: true, ..none }),
        marked(event("outlier", 2, &["nowhere"]), Marks { outlier: true, ..none }),
    ];
    Picture {
        room_id: "!<script>\"&\u{0}:a.example".to_owned(),
        room_version: "10".to_owned(),
        held: 9,
        events,
        missing: ["$gone".to_owned(), "$nowhere".to_owned()].into(),
        around: Some("$merge".to_owned()),
    }
}

/// After an intended change, write the printed text into the file, and check the picture by eye.
#[test]
fn a_drawn_graph() {
    for (made, kept) in
        [(svg(&drawn()), include_str!("drawn.svg")), (dot(&drawn()), include_str!("drawn.dot"))]
    {
        assert!(made == kept, "it differs from the file:\n{made}");
    }
}

#[test]
fn markup_in_an_event_stays_text() {
    let made = svg(&drawn());
    assert!(made.contains("!&lt;script&gt;&quot;&amp;\u{fffd}"));
    assert!(made.contains("@&lt;b&gt;&amp;&quot;&apos;\u{fffd}:x"));
    assert!(!made.contains("<script") && !made.contains("<b>"));
    let quotes = Picture { room_id: "a\"\\\n]; evil".to_owned(), ..drawn() };
    assert!(dot(&quotes).contains(r#"label="a\"\\\n]; evil";"#));
}

#[test]
fn near_events_are_selected() {
    let names = |seeds: &[&str], steps| {
        let seeds: Vec<String> = seeds.iter().map(|it| format!("${it}")).collect();
        let near = near(drawn().events, &seeds, steps);
        near.iter().map(|it| it.event_id.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&["left"], 0), "$left");
    assert_eq!(names(&["left"], 1), "$create $left $merge");
    assert_eq!(names(&["left"], 2), "$create $left $right $merge $rejected $soft $end");
    assert_eq!(names(&["unknown"], 5), "");
}

#[test]
fn a_picture_is_bounded() {
    let many: Vec<String> = (0..1_000).map(|it| format!("gone{it}")).collect();
    let prevs: Vec<&str> = many.iter().map(|it| &**it).collect();
    let mut events = vec![event("a", 1, &prevs)];
    events.extend((0..1_000).map(|it| event(&format!("b{it}"), 2, &["a"])));
    let missing = many.iter().map(|it| format!("${it}")).collect();
    let near = near(events, &["$a".to_owned()], 9);
    assert_eq!(near.len(), MAX_EVENTS);
    let picture = Picture { events: near, missing, ..Picture::default() };
    assert_eq!(layout(&picture).rows.len(), MAX_EVENTS + MAX_GAPS);
}

proptest! {
    /// For any graph, even with circles, each event is drawn once. An event outside circles is above
    /// all events that it references.
    #[test]
    fn everything_has_its_row(
        prevs in prop::collection::vec(prop::collection::vec(0usize..12, 0..4), 1..12),
        depths in prop::collection::vec(any::<i64>(), 12),
        circles in any::<bool>(),
    ) {
        let name = |it: &usize| format!("e{it}");
        let events: Vec<DrawnEvent> = prevs.iter().zip(&depths).enumerate().map(|(at, (prevs, depth))| {
            let prevs: Vec<String> = prevs.iter().filter(|it| circles || **it < at).map(name).collect();
            let prevs: Vec<&str> = prevs.iter().map(|it| &**it).collect();
            DrawnEvent { depth: *depth, ..event(&name(&at), 0, &prevs) }
        }).collect();
        let picture = Picture { events, ..Picture::default() };
        let layout = layout(&picture);
        let mut rows: Vec<&str> = layout.rows.iter().map(|it| match it.symbol {
            Symbol::Event(event) => &*event.event_id,
            Symbol::Gap(id) => id,
        }).collect();
        if !circles {
            prop_assert!(layout.edges.iter().all(|it| it.from < it.to));
            let distinct: usize = picture.events.iter()
                .map(|it| it.prev_events.iter().collect::<BTreeSet<_>>().len()).sum();
            prop_assert_eq!(layout.edges.len(), distinct);
        }
        // No two symbols have the same position.
        for edge in &layout.edges {
            let between = edge.from + 1..edge.to;
            prop_assert!(between.into_iter().all(|it| layout.rows[it].lane != edge.via));
        }
        rows.sort_unstable();
        let mut ids: Vec<&str> = picture.events.iter().map(|it| &*it.event_id).collect();
        ids.sort_unstable();
        prop_assert_eq!(rows, ids);
        prop_assert!(svg(&picture).ends_with("</svg>\n"));
    }
}

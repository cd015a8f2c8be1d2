//! Decisions are made again after a conflict, and give the same store as without: appends of
//! recorded rooms, the work that follows, removals, purges, and repairs, over an engine that reports conflicts
//! at random.

mod any_order;
mod bans;
mod content;
mod processes;
mod removed_content;

use std::{fs::File, io::BufReader, ops::ControlFlow, path::Path};

use proptest::prelude::*;

use super::{
    NewEvent, NotesLeft, Outcome, PurgedHistory, RemovedEvents, Replace, Verdict, append_all,
    purge_history, remove_events, settle_waiting, work_off,
};
use crate::{
    context::Context,
    room_format::{Header, Line, Reader},
    store::Store,
    verify,
};

const ROOMS: [&str; 4] = ["chaos0-v10", "redactions-v11", "powerfork-v12", "gap-v10-seen-by-hs2"];

fn recorded(room: &str) -> (Header, Vec<Line>) {
    let rooms = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms");
    let file = File::open(rooms.join(room).join("room.ndjson")).unwrap();
    let (header, lines) = Reader::open(BufReader::new(file)).unwrap();
    (header, lines.collect::<Result<_, _>>().unwrap())
}

/// What is done with a room.
struct Work {
    /// Events that are appended at a time.
    group: usize,
    /// Events that get another verdict.
    judged_again: Vec<(prop::sample::Index, Verdict)>,
    /// Events that are removed and appended again.
    removed: Vec<prop::sample::Index>,
    /// Whether all of them become outliers.
    keep_as_outliers: bool,
    /// The index in the file of the event before which history is purged.
    purged_before: usize,
}

/// Removes events, does some of the work that follows, and appends them again. Returns the outcomes.
fn remove_and_append(
    cx: &Context,
    header: &Header,
    events: &[NewEvent<'_>],
    Work { removed, keep_as_outliers, .. }: &Work,
) -> Vec<Outcome> {
    let removed: Vec<NewEvent<'_>> = removed.iter().map(|it| *it.get(events)).collect();
    let event_ids: Vec<String> = removed.iter().map(|it| it.event_id.to_owned()).collect();
    let removal = RemovedEvents {
        room_id: &header.room_id,
        event_ids: &event_ids,
        keep_as_outliers: *keep_as_outliers,
    };
    let progress = remove_events(&cx.store, removal, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(progress.done);
    work_off(cx).unwrap();
    append_all(cx, &removed).outcomes
}

/// Appends a room in the order of `lines`, replaces verdicts, removes events and appends them again,
/// does all work that is left, and purges history. Returns the outcomes.
fn fill(cx: &Context, header: &Header, lines: &[Line], work: &Work) -> Vec<Outcome> {
    let Work { group, judged_again, purged_before, .. } = work;
    let events: Vec<NewEvent<'_>> = lines.iter().map(|it| NewEvent::of_line(header, it)).collect();
    let mut outcomes = Vec::new();
    for events in events.chunks(*group) {
        let batch = append_all(cx, events);
        assert!(batch.failure.is_none(), "{:?}", batch.failure);
        outcomes.extend(batch.outcomes);
    }
    for (event, verdict) in judged_again {
        let event = *event.get(&events);
        let replaced = NewEvent { verdict: *verdict, replace: Replace::Changed, ..event };
        outcomes.extend(append_all(cx, &[replaced]).outcomes);
        work_off(cx).unwrap();
    }
    outcomes.extend(remove_and_append(cx, header, &events, work));
    while work_off(cx).unwrap() != NotesLeft::None {}
    settle_waiting(&cx.store, &header.room_id).unwrap();
    if let Some(line) = lines.get(*purged_before) {
        // An event that is an outlier, or not held, is refused in the same way in both stores.
        let mut watch = |_| ControlFlow::Continue(());
        let (room_id, event_id) = (header.room_id.as_str(), line.event_id.as_str());
        let purged = PurgedHistory { room_id, event_id, may_return: false };
        drop(purge_history(&cx.store, purged, &mut watch));
    }
    verify::repair(&cx.store, 0, &mut |_| {}).unwrap();
    outcomes
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop::sample::select(&[Verdict::Accepted, Verdict::SoftFailed, Verdict::Rejected][..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases((ProptestConfig::default().cases / 16).max(1)))]

    #[test]
    fn conflicts_change_nothing(
        seed: u64,
        room in prop::sample::select(&ROOMS[..]),
        group in 1usize..100,
        shift in any::<prop::sample::Index>(),
        purged_before in any::<prop::sample::Index>(),
        judged_again in prop::collection::vec((any::<prop::sample::Index>(), any_verdict()), 0..4),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        keep_as_outliers: bool,
    ) {
        let (header, mut lines) = recorded(room);
        // Events that arrive before their predecessors leave work for later.
        let count = lines.len();
        lines[count / 2..].rotate_left(shift.index(count - count / 2));
        let purged_before = purged_before.index(2 * count);
        let work = Work { group, judged_again, removed, keep_as_outliers, purged_before };
        let [undisturbed, disturbed] =
            [0, 2].map(|one_in| Context::new(Store::with_conflicts(seed, one_in)));
        let expected = fill(&undisturbed, &header, &lines, &work);
        let outcomes = fill(&disturbed, &header, &lines, &work);
        prop_assert_eq!(outcomes, expected);
        // Each group is at least one commit, and half of the commits conflict.
        let has_many_commits = count / group > 40;
        prop_assert!(!has_many_commits || disturbed.store.conflicts() > 0, "none conflicted");
        prop_assert!(disturbed.store.records() == undisturbed.store.records());
    }
}

//! The stream of invalid cache entries, without a database.

use proptest::prelude::*;

use super::*;

fn row(id: i64, function: &str, keys: &[&str]) -> InvalidationRow {
    let keys = keys.iter().map(|it| (*it).to_owned()).collect();
    InvalidationRow { id, function: function.to_owned(), keys: Some(keys) }
}

fn stream(high: i64) -> LateStream {
    LateStream { high, gaps: BTreeMap::new() }
}

#[tokio::test]
async fn each_function_demands_what_it_changed() {
    let rows = vec![
        row(1, "_get_event_cache", &["$expired"]),
        row(2, "_get_state_group_for_event", &["$cut"]),
        row(3, "have_seen_event", &["!a:b", "$deleted"]),
        row(4, "_get_event_cache", &["$deleted"]),
        row(5, "ph_cache_fake", &["!a:b"]),
        row(6, "dr_cache_fake", &["!gone:b"]),
        row(7, "ph_cache_fake", &["!gone:b"]),
        row(8, "is_user_erased", &["@u:b"]),
        row(9, "get_users_in_room", &["!a:b"]),
    ];
    let changes = stream(0).take(rows, Instant::now());
    let room = || Some("!a:b".to_owned());
    let events = [("$cut", None), ("$deleted", room()), ("$expired", None)];
    assert!(changes.events.iter().map(|(id, room)| (id.as_str(), room.clone())).eq(events));
    let rooms = [("!a:b", RoomSignal::Purged), ("!gone:b", RoomSignal::Deleted)];
    assert!(changes.rooms.iter().map(|(id, it)| (id.as_str(), *it)).eq(rooms));
    assert!(changes.small_tables);
    assert_eq!(changes.sweep_owed, None);
    assert_eq!(changes.rows.get("_get_event_cache"), Some(&2));
    assert_eq!(changes.rows.get("get_users_in_room"), None);
}

#[tokio::test]
async fn a_row_without_keys_demands_a_sweep() {
    let row = |id, function: &str| InvalidationRow { id, function: function.into(), keys: None };
    let now = Instant::now();
    let changes = stream(0).take(vec![row(1, "have_seen_event")], now);
    assert_eq!(changes.sweep_owed, Some(SweepKind::Flags));
    let changes = stream(0).take(vec![row(1, "_get_event_cache"), row(2, "ph_cache_fake")], now);
    assert_eq!(changes.sweep_owed, Some(SweepKind::Bytes));
    let changes = stream(0).take(vec![row(1, "is_user_erased"), row(2, "unrelated")], now);
    assert_eq!((changes.sweep_owed, changes.small_tables), (None, true));
}

#[tokio::test(start_paused = true)]
async fn a_skipped_id_is_asked_for_again_for_ten_minutes() {
    let mut stream = stream(10);
    let _none = stream.take(vec![row(13, "other", &[])], Instant::now());
    assert!(stream.gaps.keys().eq(&[11, 12]));
    let changes = stream.take(vec![row(11, "_get_event_cache", &["$a"])], Instant::now());
    assert_eq!(changes.events.len(), 1);
    tokio::time::advance(GAP_LIFETIME).await;
    let _none = stream.take(vec![], Instant::now());
    assert!(stream.gaps.is_empty());
    let changes = stream.take(vec![row(12, "_get_event_cache", &["$b"])], Instant::now());
    assert_eq!(changes, LookAgain::default());
}

#[tokio::test]
async fn too_many_skipped_ids_demand_a_sweep() {
    let mut stream = stream(0);
    let changes = stream.take(vec![row(1_000_000, "other", &[])], Instant::now());
    assert_eq!((changes.sweep_owed, stream.high), (Some(SweepKind::Bytes), 1_000_000));
    assert!(stream.gaps.is_empty());
}

#[tokio::test]
async fn an_absence_longer_than_the_rows_last_is_noticed() {
    let bounds = |lowest, highest| IdBounds { lowest, highest };
    let absence = |high: i64, bounds| stream(high).absence(bounds);
    assert_eq!(absence(0, bounds(None, None)), None);
    assert_eq!(absence(5, bounds(Some(5), Some(9))), None);
    assert_eq!(absence(5, bounds(Some(6), Some(9))), Some(Absence::TooLong));
    assert_eq!(absence(5, bounds(None, None)), Some(Absence::TooLong));
    assert_eq!(absence(5, bounds(Some(1), Some(4))), Some(Absence::WentBack));
}

#[tokio::test]
async fn rows_below_the_end_may_still_appear_when_following_begins() {
    let mut stream = LateStream::of_last_ids(&BTreeSet::from([2, 4]), Instant::now());
    assert!(stream.gaps.keys().eq(&[1, 3]));
    let rows = vec![row(2, "ph_cache_fake", &["!a:b"]), row(3, "dr_cache_fake", &["!c:d"])];
    assert!(stream.take(rows, Instant::now()).rooms.keys().eq(["!c:d"]));
    let empty = LateStream::of_last_ids(&BTreeSet::new(), Instant::now());
    assert_eq!((empty.high, empty.gaps.len()), (0, 0));
}

/// The transactions of a homeserver: each takes ids at once, and shows its rows later, or never.
fn any_visibility() -> impl Strategy<Value = Vec<(i64, u8)>> {
    prop::collection::vec(0_u8..8, 1..60).prop_map(|turns| (1_i64..).zip(turns).collect::<Vec<_>>())
}

proptest! {
    /// Rows of turn 7 are rolled back. The stream is stored and resumed at each turn.
    #[test]
    fn every_visible_row_is_taken_once(rows in any_visibility()) {
        let now = Instant::now();
        let mut stream = stream(0);
        let mut taken: Vec<String> = Vec::new();
        for turn in 0..7 {
            let visible = rows.iter().filter(|(_, at)| *at <= turn);
            let name = |id: &i64| format!("${id}");
            let page = visible.map(|(id, _)| row(*id, "_get_event_cache", &[&name(id)]));
            taken.extend(stream.take(page.collect(), now).events.into_keys());
            let stored = serde_json::to_vec(&stream.cursor()).unwrap();
            stream = LateStream::resume(&serde_json::from_slice(&stored).unwrap(), now);
        }
        taken.sort();
        let mut visible: Vec<String> =
            rows.iter().filter(|(_, at)| *at < 7).map(|(id, _)| format!("${id}")).collect();
        visible.sort();
        prop_assert_eq!(taken, visible);
    }
}

#[tokio::test]
async fn a_cursor_stays_small() {
    let mut stream = stream(0);
    let rows = (1..3_000).map(|it| row(it * 2, "other", &[])).collect();
    let _none = stream.take(rows, Instant::now());
    assert_eq!(stream.cursor(), LateCursor { high: 0, gaps: Vec::new() });
}

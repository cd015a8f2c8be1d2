//! Stores of older formats can be opened: `tests/stores` contains one store of each older format.

use std::{fs, path::Path};

use backscroll::{
    context::Context,
    store::{Options, Store},
};

use crate::support::{answers, faults, rooms};

/// The rooms in each of these stores.
const ROOMS: [&str; 3] = ["gap-v10-seen-by-hs2", "erased-v10", "forks-v2"];

/// Opens a store of an older format and checks its content.
fn open(format: &str) {
    let dir = tempfile::tempdir().unwrap();
    let graph = dir.path().join("graph");
    fs::create_dir(&graph).unwrap();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores").join(format);
    fs::copy(kept.join("conf"), graph.join("conf")).unwrap();
    let packed = fs::File::open(kept.join("db.zst")).unwrap();
    fs::write(graph.join("db"), zstd::decode_all(packed).unwrap()).unwrap();

    // The second time the store has the current format already.
    for _ in 0..2 {
        let cx =
            Context::new(Store::open(&Options::plain(dir.path().to_owned(), 16 << 20)).unwrap());
        assert_eq!(faults::of(&cx.store), []);
        assert_eq!(cx.store.rooms(None, 9).unwrap().len(), ROOMS.len());
        for room in rooms::bundled().iter().filter(|it| ROOMS.contains(&it.name.as_str())) {
            let held = answers::events(&cx, &room.header.room_id);
            let ids: Vec<&str> = held.iter().map(|it| it.event_id.as_str()).collect();
            let expected: Vec<&str> = room.lines.iter().map(|it| it.event_id.as_str()).collect();
            assert_eq!(ids, expected, "{}", room.name);
        }
    }
}

#[test]
fn a_store_of_format_1_is_converted_and_keeps_its_content() {
    open("format-1");
}

/// Format 2 has no blocks: each body is a record of its own.
#[test]
fn a_store_of_format_2_is_converted_and_keeps_its_content() {
    open("format-2");
}

/// Format 3 does not count unreadable events.
#[test]
fn a_store_of_format_3_is_converted_and_keeps_its_content() {
    open("format-3");
}

/// Format 4 has no cursors of feeders and no rooms that are not served.
#[test]
fn a_store_of_format_4_is_converted_and_keeps_its_content() {
    open("format-4");
}

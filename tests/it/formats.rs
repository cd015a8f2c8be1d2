//! Stores that older builds wrote open here: `tests/stores/format-N` holds one of each.

use std::{fs, path::Path};

use backscroll::{
    context::Context,
    store::{Options, Store},
};

use crate::support::{answers, faults, rooms};

/// The rooms that each of them was given.
const ROOMS: [&str; 3] = ["gap-v10-seen-by-hs2", "erased-v10", "forks-v2"];

/// Opens a store as an older build left it.
fn brought_up(format: &str) {
    let dir = tempfile::tempdir().unwrap();
    let graph = dir.path().join("graph");
    fs::create_dir(&graph).unwrap();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stores").join(format);
    fs::copy(kept.join("conf"), graph.join("conf")).unwrap();
    let packed = fs::File::open(kept.join("db.zst")).unwrap();
    fs::write(graph.join("db"), zstd::decode_all(packed).unwrap()).unwrap();

    // The second time there is nothing left to bring up.
    for _ in 0..2 {
        let cx = Context::new(Store::open(&Options::small(dir.path())).unwrap());
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
fn a_store_of_format_1_is_brought_up_and_holds_what_it_held() {
    brought_up("format-1");
}

/// Its bodies are all alone, those of full pages too.
#[test]
fn a_store_of_format_2_is_brought_up_and_holds_what_it_held() {
    brought_up("format-2");
}

/// Its rooms count no unreadable events.
#[test]
fn a_store_of_format_3_is_brought_up_and_holds_what_it_held() {
    brought_up("format-3");
}

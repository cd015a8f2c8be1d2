//! Changed bytes in the files of a store: either opening the store fails, or `verify` names the damage,
//! or all responses are still correct. No response is wrong and nothing panics: a request that needs a
//! damaged record fails.
//!
//! `BACKSCROLL_ROT_ROUNDS` is the number of rounds, `BACKSCROLL_ROT_SEED` repeats a printed seed.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use backscroll::{
    context::Context,
    store::{Options, Store},
};
use backscroll_testkit::{Random, folder, random::Rounds};

use crate::support::{
    answers::{Answer, Question},
    faults, load,
    rooms::{self, RecordedRoom},
};

const ROUNDS: u64 = 12;
const ROOMS: [&str; 5] =
    ["forks-v2", "visibility-v12", "redactions-v11", "acl-v10", "rejected-v10"];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
}

/// Damages a random file: flips bits, writes a block of zeros, or truncates it. Returns a description.
fn damage(dir: &Path, random: &mut Random) -> String {
    let mut found = Vec::new();
    files(dir, &mut found);
    let path = &found[usize::try_from(random.below(found.len().try_into().unwrap())).unwrap()];
    let mut bytes = fs::read(path).unwrap();
    let length = bytes.len().try_into().unwrap();
    let at = usize::try_from(random.below(length)).unwrap();
    let what = match random.below(6) {
        0 => {
            bytes.truncate(at);
            "cut off"
        }
        1 => {
            let end = bytes.len().min(at + 512);
            bytes[at..end].fill(0);
            "zeros"
        }
        _ => {
            for _ in 0..=random.below(8) {
                let at = usize::try_from(random.below(length)).unwrap();
                bytes[at] ^= 1 << random.below(8);
            }
            "bits"
        }
    };
    fs::write(path, bytes).unwrap();
    format!("{what} in {} at {at}", path.file_name().unwrap().display())
}

fn answers(cx: &Context, rooms: &[RecordedRoom]) -> Vec<Answer> {
    let questions = rooms.iter().flat_map(|room| {
        room.requests.iter().map(|it| Question::recorded(&room.header.room_id, it))
    });
    questions.map(|it| it.ask(cx)).collect()
}

#[derive(Debug, Default)]
struct Table {
    rounds: u64,
    not_opened: u64,
    named_by_verify: u64,
    refused_by_requests: u64,
    all_right: u64,
}

#[test]
fn changed_bytes_are_reported_or_have_no_effect() {
    let rooms: Vec<RecordedRoom> =
        rooms::bundled().into_iter().filter(|it| ROOMS.contains(&it.name.as_str())).collect();
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let cx = Context::new(Store::open(&Options::small(&whole)).unwrap());
    rooms.iter().for_each(|it| load::append_room(&cx, it));
    cx.store.flush().unwrap();
    let truth = answers(&cx, &rooms);
    drop(cx);
    // When sled opens, it reads its log after the snapshot that the last opening wrote; it reads the rest
    // on demand. The rounds damage stores with and without a snapshot in turn.
    let snapped = dir.path().join("snapped");
    folder::copy(&whole, &snapped).unwrap();
    for _ in 0..2 {
        drop(Store::open(&Options::small(&snapped)).unwrap());
    }

    let Rounds { count: rounds, seed } = Rounds::of("ROT", ROUNDS);
    let (mut random, mut table) = (Random::new(seed), Table::default());
    for round in 0..rounds {
        let damaged = dir.path().join(round.to_string());
        folder::copy(if round % 2 == 0 { &whole } else { &snapped }, &damaged).unwrap();
        let what = damage(&damaged, &mut random);
        let open = || Store::open(&Options::small(&damaged));
        let opened = catch_unwind(AssertUnwindSafe(open));
        let opened = opened.unwrap_or_else(|_| panic!("round {round}: {what}: opening panics"));
        table.rounds += 1;
        let Ok(store) = opened else {
            table.not_opened += 1;
            continue;
        };
        let cx = Context::new(store);
        let asked = catch_unwind(AssertUnwindSafe(|| answers(&cx, &rooms)));
        let asked = asked.unwrap_or_else(|_| panic!("round {round}: {what}: a request panics"));
        let found = catch_unwind(AssertUnwindSafe(|| faults::of(&cx.store)));
        let found = found.unwrap_or_else(|_| panic!("round {round}: {what}: verify panics"));
        // The responses before `verify` ran: an error, or correct.
        let wrong = asked.iter().zip(&truth).filter(|(answer, truth)| answer != truth);
        let is_refused = |it: &(&Answer, &Answer)| {
            it.0.as_ref().is_err_and(|text| text.contains("damaged") || text.contains("failed"))
        };
        let (refused, wrong): (Vec<_>, Vec<_>) = wrong.partition(is_refused);
        let wrong = wrong.len();
        assert!(wrong == 0, "round {round}: {what}: {wrong} wrong answers; faults: {found:?}");
        table.refused_by_requests += u64::from(!refused.is_empty());
        if found.is_empty() { table.all_right += 1 } else { table.named_by_verify += 1 }
    }
    println!("{table:?}");
}

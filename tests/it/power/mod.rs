//! Power cuts: records the file operations of the real service under load, builds the files that a power
//! cut at any moment may leave, opens the store, and compares it with the acknowledged events.
//!
//! `BACKSCROLL_POWER_CUTS` is the number of cuts, `BACKSCROLL_POWER_SEED` repeats a printed seed, and
//! `BACKSCROLL_POWER_FLAGS` says how the file system treats the inode flags: `heeded`, `files` or `none`.
//! With `none`, some stores do not open, and the test fails. Needs a C compiler; prints a line and skips
//! otherwise.

mod failing;
mod load;
mod real;
mod record;
mod replay;
mod shut;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use backscroll::store::{Options, Store, StoreError, View as _, caught};
use backscroll_testkit::{Random, folder, process::Ended};

use self::{
    load::{Acknowledged, Growing, due},
    record::{Flags, Recorder, Recording, library},
    replay::{Replay, read_log},
};
use crate::support::{clients::Clients, engine, faults, process::Process};

/// The number of cuts without the variable, and of one recording.
const CUTS: u64 = 60;
const CUTS_A_RECORDING: u64 = 24;
/// One of this number of cuts is also verified as a whole.
const VERIFIED: u64 = 6;
/// How long an opening may take.
const PATIENCE: Duration = Duration::from_secs(120);
const FLAGS: [&str; 4] = ["--reserved-mib", "0", "--cache-mib", "16"];

/// What the service does while it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Burst,
    Single,
    Purge,
    Opening,
    Shutdown,
}

const PHASES: [Phase; 5] =
    [Phase::Burst, Phase::Single, Phase::Purge, Phase::Opening, Phase::Shutdown];

/// The outcome of a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Sound,
    NotOpened,
    /// The store did not open, and its files were changed.
    NotOpenedAndChanged,
    Hung,
    Empty,
    Lost,
    Damaged,
}

/// A store after a power cut, and the events acknowledged before.
struct Base {
    dir: PathBuf,
    acknowledged: Vec<Acknowledged>,
}

struct Table {
    ends: BTreeMap<(Phase, End), u64>,
    acknowledged: usize,
    /// A description of the first failure of each kind.
    examples: BTreeMap<(Phase, End), String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_event_is_lost_when_the_power_is_cut() {
    let (cuts, mut random, flags) = asked();
    let dir = memory();
    let Some(recorder) = library("record", dir.path()) else {
        println!("skipped: no C compiler");
        return;
    };
    let mut table = Table { ends: BTreeMap::new(), acknowledged: 0, examples: BTreeMap::new() };
    let (mut base, mut round) = (None, 0);
    while table.ends.values().sum::<u64>() < cuts {
        let phase = PHASES[usize::try_from(round % 5).unwrap()];
        round += 1;
        let work = Work { recorder: &recorder, dir: dir.path(), flags, phase, round };
        base = work.round(base, &mut random, &mut table).await;
    }
    println!("{} acknowledged; {:?}", table.acknowledged, table.ends);
    // After some cuts fjall does not open its files; it loses and damages nothing.
    let may_not_open = !engine::is_sled();
    let is_failure = |end| end != End::Sound && !(may_not_open && end == End::NotOpened);
    let failed = table.ends.iter().filter(|((_, end), _)| is_failure(*end));
    let failed: u64 = failed.map(|it| it.1).sum();
    assert!(table.acknowledged > 0, "events were acknowledged");
    assert!(failed == 0, "{failed} of {cuts} cuts: {:#?}", table.examples);
}

/// Reads the number of cuts, the seed and the flags from the environment.
fn asked() -> (u64, Random, Flags) {
    #[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
    let variable = |name: &str| env::var(format!("BACKSCROLL_POWER_{name}")).ok();
    let number = |name, usual| variable(name).map_or(usual, |it: String| it.parse().unwrap());
    let (cuts, seed) = (number("CUTS", CUTS), number("SEED", 1));
    let flags = match variable("FLAGS").as_deref() {
        None | Some("heeded") => Flags::Heeded,
        Some("files") => Flags::Files,
        Some("none") => Flags::None,
        Some(other) => panic!("BACKSCROLL_POWER_FLAGS={other}"),
    };
    println!("BACKSCROLL_POWER_CUTS={cuts} BACKSCROLL_POWER_SEED={seed} {flags:?}");
    (cuts, Random::new(seed), flags)
}

/// A temporary folder, in memory if possible.
fn memory() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.unwrap()
}

/// One recording and its cuts.
struct Work<'a> {
    recorder: &'a Path,
    dir: &'a Path,
    flags: Flags,
    phase: Phase,
    round: u64,
}

impl Work<'_> {
    /// Returns a store that the next round may begin with.
    async fn round(
        &self,
        base: Option<Base>,
        random: &mut Random,
        table: &mut Table,
    ) -> Option<Base> {
        let (data_dir, before) = (self.dir.join("data"), self.dir.join("before"));
        for folder in [&data_dir, &before] {
            drop(fs::remove_dir_all(folder));
        }
        let mut acknowledged = Vec::new();
        if let Some(base) = base {
            folder::copy(&base.dir, &data_dir).unwrap();
            folder::copy(&base.dir, &before).unwrap();
            acknowledged = base.acknowledged;
        }
        let log = self.dir.join("log");
        let delay = [100, 700, 2_000][usize::try_from(random.below(3)).unwrap()];
        let recorder = Recorder { preloaded: self.recorder, flags: self.flags, delay_us: delay };
        let (recording, service) = recorder.start(&data_dir, &log);
        self.load(&recording, service, &mut acknowledged, random).await;
        table.acknowledged += acknowledged.iter().filter(|it| it.after > 0).count();
        let log = read_log(&log);
        let mut places: Vec<usize> =
            (0..CUTS_A_RECORDING).map(|_| self.place(log.len(), random)).collect();
        places.sort_unstable();
        let mut replay = Replay::new(&log, &before);
        let mut next = None;
        for at in places {
            let (left, opened) = (self.dir.join("left"), self.dir.join("opened"));
            for folder in [&left, &opened] {
                drop(fs::remove_dir_all(folder));
            }
            let how = replay.cut(at, &left, random);
            folder::copy(&left, &opened).unwrap();
            let verified = random.below(VERIFIED) == 0;
            let (end, said) = check(&left, &opened, &due(&acknowledged, at), verified);
            *table.ends.entry((self.phase, end)).or_default() += 1;
            if end != End::Sound {
                let text = format!("round {}: {how}: {said}", self.round);
                println!("{:?} {end:?}: {text}", self.phase);
                table.examples.entry((self.phase, end)).or_insert(text);
                keep(&left, self.round, at);
            } else if next.is_none() && random.below(4) == 0 {
                let dir = self.dir.join("base");
                drop(fs::remove_dir_all(&dir));
                fs::rename(&left, &dir).unwrap();
                next = Some(Base { dir, acknowledged: of_next(&acknowledged, at) });
            }
        }
        // Some rounds begin with an empty store.
        next.filter(|_| !self.round.is_multiple_of(7))
    }

    /// Selects the record of a cut: anywhere, or near the beginning or the end.
    fn place(&self, length: usize, random: &mut Random) -> usize {
        let length = u64::try_from(length).unwrap();
        let near = length.min(300);
        let place = match (self.phase, random.below(4)) {
            (Phase::Opening, _) | (_, 0) => random.below(near + 1),
            (Phase::Shutdown, _) | (_, 1) => length - random.below(near.min(60) + 1),
            _ => random.below(length + 1),
        };
        usize::try_from(place).unwrap()
    }

    async fn load(
        &self,
        recording: &Recording,
        service: Process,
        acknowledged: &mut Vec<Acknowledged>,
        random: &mut Random,
    ) {
        if self.phase == Phase::Opening {
            service.kill();
            return;
        }
        let clients = Clients::connect(&service).await;
        let mut rooms: Vec<Growing> =
            (0..4).map(|it| Growing::new(&format!("room-{}-{it}", self.round))).collect();
        let rounds = 1 + random.below(3);
        for _ in 0..rounds {
            if self.phase == Phase::Single {
                let events = rooms[0].next(20, random);
                acknowledged
                    .extend(load::single(&clients, recording, &rooms[0].room, &events).await);
                continue;
            }
            let count = [3, 25, 90][usize::try_from(random.below(3)).unwrap()];
            let of_rooms: Vec<_> = rooms.iter_mut().map(|it| it.next(count, random)).collect();
            let of_rooms: Vec<_> = rooms.iter().map(|it| &it.room).zip(of_rooms).collect();
            acknowledged.extend(load::burst(&clients, recording, &of_rooms).await);
            if self.phase == Phase::Purge {
                load::purge(&clients, recording, &rooms[0].room, acknowledged).await;
            }
        }
        if self.phase == Phase::Shutdown {
            let Ended { code, log: said } = service.stop();
            assert_eq!(code, Some(0), "{said}");
        } else {
            service.kill();
        }
    }
}

/// The events acknowledged before a cut, for a recording that begins with the store that it left.
fn of_next(acknowledged: &[Acknowledged], at: usize) -> Vec<Acknowledged> {
    let due = due(acknowledged, at);
    let due = due.into_values().flatten().cloned();
    due.map(|it| Acknowledged { after: 0, purged: None, ..it }).collect()
}

/// Opens the store after a cut and compares it, in a thread of its own because opening may hang.
fn check(
    left: &Path,
    opened: &Path,
    due: &BTreeMap<&str, Vec<&Acknowledged>>,
    verified: bool,
) -> (End, String) {
    let (to_us, done) = mpsc::channel();
    let options = Options::small(opened);
    thread::spawn(move || drop(to_us.send(Store::open(&options))));
    let store = match done.recv_timeout(PATIENCE) {
        Err(_) => return (End::Hung, String::new()),
        Ok(Err(failure)) => {
            let graph = |it: &Path| files(&it.join("graph"));
            let is_same = graph(left) == graph(opened);
            let end = if is_same { End::NotOpened } else { End::NotOpenedAndChanged };
            return (end, failure.to_string());
        }
        Ok(Ok(store)) => store,
    };
    // If the flags are ignored, sled may also panic while it reads.
    match caught(|| compare(&store, due, verified)) {
        Ok(end) => end,
        Err(thrown) => (End::Damaged, thrown.to_string()),
    }
}

/// Compares the store with the events that it must contain.
fn compare(
    store: &Store,
    due: &BTreeMap<&str, Vec<&Acknowledged>>,
    verified: bool,
) -> (End, String) {
    let held = store.rooms(None, 1).unwrap();
    if held.is_empty() && !due.is_empty() {
        return (End::Empty, format!("{} rooms were held", due.len()));
    }
    let mut lost = Vec::new();
    for it in due.values().flatten() {
        if !is_held(store, it).unwrap_or(false) {
            lost.push(it.event_id.as_str());
        }
    }
    if !lost.is_empty() {
        let all: usize = due.values().map(Vec::len).sum();
        return (End::Lost, format!("{} of {all}: {}", lost.len(), lost[0]));
    }
    if verified {
        let faults = faults::of(store);
        if let Some(fault) = faults.first() {
            return (End::Damaged, format!("{} faults: {fault}", faults.len()));
        }
    }
    (End::Sound, String::new())
}

fn is_held(store: &Store, it: &Acknowledged) -> Result<bool, StoreError> {
    let Some(room) = store.room_num(&it.room_id)? else { return Ok(false) };
    let Some(event) = store.event_num(room, &it.event_id)? else { return Ok(false) };
    Ok(*store.body(room, event)?.pdu == *it.pdu.as_bytes())
}

/// All files of a folder and their content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|it| (name.join(it.0), it.1)));
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

/// Copies the files of a failed cut if `BACKSCROLL_POWER_KEEP` names a folder.
fn keep(left: &Path, round: u64, at: usize) {
    #[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
    if let Ok(folder) = env::var("BACKSCROLL_POWER_KEEP") {
        folder::copy(left, &Path::new(&folder).join(format!("{round}-{at}"))).unwrap();
    }
}

//! Real power cuts: a real ext4 or XFS file system on a loop device is cut off from its disk under load
//! and mounted again; then the store is opened and compared. Needs root, loop devices, and the programs
//! that create the file systems; prints a line and skips otherwise.
//!
//! ```text
//! BACKSCROLL_REAL_CUTS=50 cargo test --test it power::real -- --ignored --nocapture
//! ```

use backscroll_testkit::{Random, folder};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    End, FLAGS, check,
    load::{self, Acknowledged, Growing, due},
    record::Recording,
};
use crate::support::{clients::Clients, process::Process};

/// The number of cuts of each file system.
const CUTS: u64 = 50;
/// Cuts of the same store; then a new store is created.
const CUTS_A_STORE: u64 = 5;
/// Events of a stream: more than it can append before the cut.
const EVENTS: u64 = 700;
const LONGEST_MS: u64 = 4_300;
const IMAGE_BYTES: u64 = 1 << 30;

/// A file system on a loop device, unmounted when dropped.
struct Volume {
    image: PathBuf,
    mounted: PathBuf,
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|it| it.success())
}

impl Volume {
    fn make(kind: &str, dir: &Path) -> Option<Self> {
        let (image, mounted) = (dir.join("image"), dir.join("mounted"));
        fs::create_dir_all(&mounted).unwrap();
        fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        let it = Self { image, mounted };
        let made = succeeds(&format!("mkfs.{kind}"), &["-q", it.image.to_str().unwrap()]);
        (made && it.mount()).then_some(it)
    }

    fn mount(&self) -> bool {
        let [image, mounted] = [&self.image, &self.mounted].map(|it| it.to_str().unwrap());
        succeeds("mount", &["-o", "loop", image, mounted])
    }

    fn unmount(&self) -> bool {
        succeeds("umount", &[self.mounted.to_str().unwrap()])
    }

    /// Unmounts the file system after a test that failed.
    fn unmount_for_good(&self) {
        if !self.unmount() {
            succeeds("umount", &["-l", self.mounted.to_str().unwrap()]);
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.unmount_for_good();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and root"]
async fn ext4_loses_no_event() {
    rounds("ext4").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and root"]
async fn xfs_loses_no_event() {
    rounds("xfs").await;
}

async fn rounds(kind: &str) {
    #[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
    let cuts = env::var("BACKSCROLL_REAL_CUTS").map_or(CUTS, |it| it.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/cut.c");
    let (cut, source) = (dir.path().join("cut"), source.to_str().unwrap().to_owned());
    if !succeeds("cc", &["-o", cut.to_str().unwrap(), &source]) {
        println!("skipped: no C compiler");
        return;
    }
    let (mut random, mut total, mut failed) = (Random::new(1), 0, Vec::new());
    let mut done = 0;
    while done < cuts {
        let Some(volume) = Volume::make(kind, dir.path()) else {
            println!("skipped: {kind} on a loop device is not possible here");
            return;
        };
        let mut acknowledged = Vec::new();
        for _ in 0..CUTS_A_STORE.min(cuts - done) {
            let before = acknowledged.len();
            load_and_cut(&volume, &cut, done, &mut random, &mut acknowledged).await;
            assert!(volume.unmount() && volume.mount(), "it cannot be mounted again");
            let (left, opened) = (volume.mounted.join("data"), dir.path().join("opened"));
            drop(fs::remove_dir_all(&opened));
            folder::copy(&left, &opened).unwrap();
            let (end, said) = check(&left, &opened, &due(&acknowledged, 0), true);
            println!(
                "{kind} cut {done}: {} acknowledged, {end:?} {said}",
                acknowledged.len() - before
            );
            total += acknowledged.len() - before;
            done += 1;
            if end != End::Sound {
                failed.push(format!("cut {}: {end:?} {said}", done - 1));
                break;
            }
        }
    }
    println!("{kind}: {done} cuts, {total} acknowledged, {} failed", failed.len());
    assert!(failed.is_empty() && total > 0, "{failed:#?}");
}

async fn load_and_cut(
    volume: &Volume,
    cut: &Path,
    round: u64,
    random: &mut Random,
    acknowledged: &mut Vec<Acknowledged>,
) {
    let service = Process::start(&volume.mounted.join("data"), &FLAGS);
    let clients = Clients::connect(&service).await;
    let mut rooms: Vec<Growing> =
        (0..4).map(|it| Growing::new(&format!("cut-{round}-{it}"))).collect();
    let events: Vec<_> = rooms.iter_mut().map(|it| it.next(EVENTS, random)).collect();
    let rooms: Vec<_> = rooms.iter().map(|it| &it.room).zip(events).collect();
    let after = Duration::from_millis(random.below(LONGEST_MS));
    let recording = Recording::none();
    let cutting = async {
        tokio::time::sleep(after).await;
        let mounted = volume.mounted.to_str().unwrap();
        assert!(succeeds(cut.to_str().unwrap(), &[mounted]), "it cannot be cut off");
        service.kill()
    };
    let (of_round, _log) = tokio::join!(load::burst(&clients, &recording, &rooms), cutting);
    acknowledged.extend(of_round);
}

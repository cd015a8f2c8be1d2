//! A volume of 64 MiB that an import fills up: the refusal, the reads that go on, health, the
//! restart on a volume without a free byte, the recovery; and nothing that was acknowledged is
//! lost. Needs to be allowed to mount a tmpfs; says so where it is not.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use backscroll::{pdu::RoomVersion, proto::v1::append_events_response::Outcome};
use backscroll_testkit::{Event, Room, process::Ended};
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    clients::{Clients, reason, request},
    process::{self, Process},
};

/// What an operator's other files take of the volume, and give back.
const BALLAST_BYTES: usize = 16 << 20;
/// About so much of each event does not compress.
const EVENT_BYTES: usize = 48 << 10;
const ENOUGH_EVENTS: u32 = 2_000;
/// How long it is looked at when the volume has just become full.
const BRINK_SECONDS: u32 = 4;
const FLAGS: [&str; 4] = ["--reserved-mib", "12", "--cache-mib", "16"];

/// A mounted tmpfs, unmounted when dropped.
struct Volume(tempfile::TempDir);

impl Volume {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(dir.path());
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|it| it.success());
        mounted.then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

/// Text that does not compress, told by its number.
fn noise(number: u32) -> String {
    let mut hash = Sha256::digest(number.to_be_bytes());
    let mut text = String::with_capacity(EVENT_BYTES);
    while text.len() < EVENT_BYTES {
        text.extend(hash.iter().map(|it| char::from(b'!' + 1 + it % 57)));
        hash = Sha256::digest(hash);
    }
    text
}

/// Appends an event, acknowledged or not.
async fn append(clients: &mut Clients, room: &Room, event: &Event) -> Result<(), Status> {
    let answers = clients.append(vec![request(room, &event.pdu)]).await?;
    assert!(matches!(answers[0].outcome, Some(Outcome::Appended(_))), "{answers:?}");
    Ok(())
}

/// Waits for a status of the ingest service, as an orchestrator does: by asking again.
async fn wait_for(clients: &mut Clients, status: ServingStatus) {
    let wait = async {
        while clients.health("IngestService").await != status {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
}

/// How many of these events can be read.
async fn held(clients: &mut Clients, room: &Room, event_ids: &[String]) -> usize {
    clients.events(&room.room_id, event_ids).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_refuses_events_and_loses_none() {
    let Some(volume) = Volume::mount() else {
        println!("skipped: a tmpfs cannot be mounted here");
        return;
    };
    let data_dir = volume.path().join("data");
    let ballast = volume.path().join("ballast");
    fs::write(&ballast, vec![1; BALLAST_BYTES]).unwrap();
    let service = Process::start(&data_dir, &FLAGS);
    let mut clients = Clients::connect(&service).await;
    let user = "@alice:one.example";
    let (room, create) = Room::new(RoomVersion::V10, user);
    append(&mut clients, &room, &create).await.unwrap();

    // The import that fills it up, until health has noticed as well.
    let (mut last, mut acknowledged) = (create, Vec::new());
    let mut refused = None;
    let filling = async {
        while refused.is_none()
            || clients.health("IngestService").await != ServingStatus::NotServing
        {
            let number = u32::try_from(acknowledged.len()).unwrap();
            assert!(number < ENOUGH_EVENTS, "the volume does not fill up");
            let next = room.message(user, &noise(number)).after([&last]).finish();
            match append(&mut clients, &room, &next).await {
                Ok(()) => {
                    acknowledged.push(next.event_id.clone());
                    last = next;
                }
                Err(status) => refused = Some(status),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), filling).await.unwrap();
    let refusal = refused.unwrap();
    assert_eq!(reason(&refusal), (Code::ResourceExhausted, "DISK_FULL".to_owned()));
    assert!(refusal.message().contains("kept free"), "{}", refusal.message());

    // What sled gives back at the brink changes nothing: no to and fro.
    for _ in 0..BRINK_SECONDS {
        assert!(append(&mut clients, &room, &last).await.is_err());
        assert_eq!(clients.health("IngestService").await, ServingStatus::NotServing);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    // Reads go on; only the ingest service is out of service.
    assert_eq!(clients.health("HistoryService").await, ServingStatus::Serving);
    assert_eq!(held(&mut clients, &room, &acknowledged).await, acknowledged.len());

    // Stopped and started again as it is, it opens, since space was kept for that.
    let Ended { code, log } = service.stop();
    assert_eq!(code, Some(0), "{log}");
    let service = Process::start(&data_dir, &FLAGS);
    let mut clients = Clients::connect(&service).await;
    assert_eq!(held(&mut clients, &room, &acknowledged).await, acknowledged.len());

    // Others take the very last byte, also of what sled gave back as it opened: reads still go on.
    let filler = volume.path().join("filler");
    let filled = fs::write(&filler, vec![2; 64 << 20]);
    assert!(filled.is_err(), "the volume is full");
    wait_for(&mut clients, ServingStatus::NotServing).await;
    assert_eq!(held(&mut clients, &room, &acknowledged).await, acknowledged.len());
    assert!(append(&mut clients, &room, &last).await.is_err());

    // With space back, it goes on by itself.
    fs::remove_file(&filler).unwrap();
    fs::remove_file(&ballast).unwrap();
    wait_for(&mut clients, ServingStatus::Serving).await;
    append(&mut clients, &room, &last).await.unwrap();
    acknowledged.push(last.event_id.clone());
    assert_eq!(held(&mut clients, &room, &acknowledged).await, acknowledged.len());
    println!("{} events of {EVENT_BYTES} bytes acknowledged, 0 lost", acknowledged.len());

    let Ended { code, log } = service.stop();
    assert_eq!(code, Some(0), "{log}");
    let data_dir = data_dir.to_str().unwrap();
    let verified = process::stdout(process::run(["verify", "--data-dir", data_dir]));
    assert!(verified.ends_with(" 0 faults\n"), "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_all_the_same_stops_the_service() {
    let Some(volume) = Volume::mount() else {
        println!("skipped: a tmpfs cannot be mounted here");
        return;
    };
    let data_dir = volume.path().join("data");
    // Nothing is kept free, so nothing is refused in time.
    let flags = ["--reserved-mib", "0", "--cache-mib", "16"];
    let service = Process::start(&data_dir, &flags);
    let mut clients = Clients::connect(&service).await;
    let user = "@alice:one.example";
    let (room, create) = Room::new(RoomVersion::V10, user);
    append(&mut clients, &room, &create).await.unwrap();
    let ballast = volume.path().join("ballast");
    fs::write(&ballast, vec![1; 64 << 20]).unwrap_err();
    let (mut last, mut acknowledged) = (create.clone(), vec![create.event_id]);
    let failure = loop {
        let number = u32::try_from(acknowledged.len()).unwrap();
        assert!(number < ENOUGH_EVENTS, "the volume does not fill up");
        let next = room.message(user, &noise(number)).after([&last]).finish();
        match append(&mut clients, &room, &next).await {
            Ok(()) => acknowledged.push(next.event_id.clone()),
            Err(status) => break status,
        }
        last = next;
    };
    assert_eq!(reason(&failure), (Code::Internal, "STORE_FAILED".to_owned()));
    let Ended { code, log } = service.wait();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("a write to the store failed; stopping"), "{log}");

    fs::remove_file(&ballast).unwrap();
    let service = Process::start(&data_dir, &flags);
    let mut clients = Clients::connect(&service).await;
    assert_eq!(held(&mut clients, &room, &acknowledged).await, acknowledged.len());
}

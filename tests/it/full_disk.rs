//! An import fills a volume of 64 MiB: events are refused, reads continue, health changes, the service
//! restarts on a full volume and recovers, and no acknowledged event is lost. Needs permission to mount
//! a tmpfs; prints a line and skips otherwise.

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
    engine,
    process::{self, Process},
};

/// The size of other files on the volume, which are removed later.
const BALLAST_BYTES: usize = 16 << 20;
/// The approximate number of bytes in each event that do not compress.
const EVENT_BYTES: usize = 48 << 10;
const ENOUGH_EVENTS: u32 = 2_000;
/// How long the service is observed after the volume has become full.
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

/// A text that does not compress; the number selects it.
fn noise(number: u32) -> String {
    let mut hash = Sha256::digest(number.to_be_bytes());
    let mut text = String::with_capacity(EVENT_BYTES);
    while text.len() < EVENT_BYTES {
        text.extend(hash.iter().map(|it| char::from(b'!' + 1 + it % 57)));
        hash = Sha256::digest(hash);
    }
    text
}

/// Appends an event; an error if it was refused.
async fn append(clients: &mut Clients, room: &Room, event: &Event) -> Result<(), Status> {
    let answers = clients.append(vec![request(room, &event.pdu)]).await?;
    assert!(matches!(answers[0].outcome, Some(Outcome::Appended(_))), "{answers:?}");
    Ok(())
}

/// Waits for a status of the ingest service, by polling as an orchestrator does.
async fn wait_for(clients: &mut Clients, status: ServingStatus) {
    let wait = async {
        while clients.health("IngestService").await != status {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
}

/// The number of these events that can be read.
async fn held(clients: &mut Clients, room: &Room, event_ids: &[String]) -> usize {
    clients.events(&room.room_id, event_ids).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_refuses_events_and_loses_none() {
    if !engine::is_in_files() {
        return;
    }
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

    // Fills the volume until an event is refused and health has changed.
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

    // sled frees a little space now and then: the service does not switch back and forth.
    for _ in 0..BRINK_SECONDS {
        assert!(append(&mut clients, &room, &last).await.is_err());
        assert_eq!(clients.health("IngestService").await, ServingStatus::NotServing);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    // Reads continue; only the ingest service is NOT_SERVING.
    assert_eq!(clients.health("HistoryService").await, ServingStatus::Serving);
    assert_eq!(held(&mut clients, &room, &acknowledged).await, acknowledged.len());

    // It can be restarted, because it reserved the space for that.
    let Ended { code, log } = service.stop();
    assert_eq!(code, Some(0), "{log}");
    let service = Process::start(&data_dir, &FLAGS);
    let mut clients = Clients::connect(&service).await;
    assert_eq!(held(&mut clients, &room, &acknowledged).await, acknowledged.len());

    // Other files take the last byte, also the space that sled freed when it opened: reads continue.
    let filler = volume.path().join("filler");
    let filled = fs::write(&filler, vec![2; 64 << 20]);
    assert!(filled.is_err(), "the volume is full");
    wait_for(&mut clients, ServingStatus::NotServing).await;
    assert_eq!(held(&mut clients, &room, &acknowledged).await, acknowledged.len());
    assert!(append(&mut clients, &room, &last).await.is_err());

    // With free space it accepts events again by itself.
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
async fn a_failing_write_stops_the_service() {
    if !engine::is_in_files() {
        return;
    }
    let Some(volume) = Volume::mount() else {
        println!("skipped: a tmpfs cannot be mounted here");
        return;
    };
    let data_dir = volume.path().join("data");
    // Without reserved space, no event is refused in time.
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

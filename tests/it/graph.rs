//! The command `backscroll graph`.

use std::{fs, path::Path, process::Command};

use crate::support::{load::append_room, rooms, services::Services};

/// The room of `docs/graph.svg`.
const ROOM: &str = "chaos0-v10";
const EVENT: &str = "$x_mmK3SroGLZUb-IqlliFtjzVmzR3W2O7VtOsZ27AhA";

#[tokio::test(flavor = "multi_thread")]
async fn the_command_draws_the_picture_in_the_documentation() {
    let room = rooms::bundled().into_iter().find(|it| it.name == ROOM).unwrap();
    let data_dir = tempfile::tempdir().unwrap();
    let services = Services::start(data_dir.path(), "hs1.example:9101", "{}").await;
    append_room(&services.cx, &room);
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("graph.svg");
    let server = format!("http://{}", services.history);
    let graph = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backscroll"));
        command.args(["graph", "--server", &server, &room.header.room_id]).args(arguments);
        command.output().unwrap()
    };

    let drawn = graph(&["--around", EVENT, "--depth", "3", "--svg", made.to_str().unwrap()]);
    assert!(drawn.status.success(), "{drawn:?}");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/graph.svg");
    let same = fs::read_to_string(&made).unwrap() == fs::read_to_string(&kept).unwrap();
    assert!(
        same,
        "the picture changed: if that is intended, look at {made:?} and copy it to {kept:?}"
    );

    let dot = graph(&[]);
    let dot = String::from_utf8(dot.stdout).unwrap();
    assert!(dot.starts_with("digraph room {") && dot.contains(EVENT), "{dot}");

    let unknown = graph(&["--around", "$unknown"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("not held in this room"));
    services.stop().await;
}

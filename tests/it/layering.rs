//! Holds the floor plan: who may import whom, how long a file may be, and that every file
//! introduces itself. Reads the sources as text; tests inside them may reach wherever they like.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Top floor first. A room may import the rooms named here, all of them below it.
const PLAN: &[(&str, &[&str])] = &[
    ("main", &[]),
    ("lib", &[]),
    // Compiled for tests and fuzzing only.
    ("properties", &["ingest", "context", "pdu"]),
    (
        "cli",
        &[
            "server",
            "rpc",
            "backup",
            "verify",
            "ingest",
            "context",
            "store",
            "picture",
            "proto",
            "room_format",
            "metrics",
            "pdu",
            "telemetry",
        ],
    ),
    ("server", &["rpc", "ingest", "query", "context", "store", "proto", "metrics"]),
    (
        "rpc",
        &[
            "verify",
            "ingest",
            "query",
            "context",
            "store",
            "proto",
            "access",
            "graph",
            "visibility",
            "pdu",
            "metrics",
            "slow_walks",
            "deadline",
        ],
    ),
    ("verify", &["ingest", "store", "state", "pdu"]),
    // Of `ingest`, the words for what was decided about an event.
    (
        "query",
        &[
            "ingest",
            "context",
            "store",
            "graph",
            "visibility",
            "access",
            "state",
            "pdu",
            "metrics",
            "slow_walks",
            "deadline",
        ],
    ),
    ("ingest", &["context", "store", "room_format", "graph", "visibility", "state", "pdu"]),
    ("context", &["store", "pdu", "metrics", "slow_walks", "backlog"]),
    ("backup", &["room_format", "pdu"]),
    ("store", &["state", "visibility"]),
    ("picture", &[]),
    ("room_format", &[]),
    ("state", &["pdu"]),
    ("access", &[]),
    ("visibility", &[]),
    ("graph", &[]),
    ("pdu", &[]),
    ("metrics", &[]),
    ("slow_walks", &[]),
    ("backlog", &[]),
    ("deadline", &[]),
    ("telemetry", &[]),
    ("proto", &[]),
];
const MAX_LINES: usize = 450;

#[test]
fn imports_point_down() {
    for (floor, (room, may_import)) in PLAN.iter().enumerate() {
        for target in *may_import {
            let below = PLAN.iter().position(|(name, _)| name == target);
            assert!(below > Some(floor), "the plan lets `{room}` import `{target}` above it");
        }
    }
    let mut seen = 0;
    for file in sources() {
        let room = room_of(&file);
        let (_, may_import) = PLAN
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("`{room}` has no floor in the plan"));
        for target in imports(&without_tests(&file)) {
            let known = PLAN.iter().any(|(name, _)| *name == target);
            let allowed = target == room || may_import.contains(&target.as_str());
            assert!(!known || allowed, "{}: `{room}` must not import `{target}`", file.display());
            seen += usize::from(known);
        }
    }
    assert!(seen > 50, "only {seen} imports were found: is the text read as it should be?");
}

#[test]
fn files_are_short_and_introduce_themselves() {
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{}: {lines} lines, at most {MAX_LINES}", file.display());
        assert!(text.starts_with("//!"), "{}: begins with no `//!`", file.display());
    }
}

#[test]
fn only_the_store_knows_sled_and_only_doors_know_proto() {
    for file in sources() {
        let (room, text) = (room_of(&file), without_tests(&file));
        assert!(room == "store" || !text.contains("sled::"), "{}: knows sled", file.display());
        let is_a_door = matches!(room.as_str(), "rpc" | "server" | "cli" | "proto");
        assert!(is_a_door || !text.contains("tonic::"), "{}: knows tonic", file.display());
    }
}

/// The code of a file, without comments and without its tests.
fn without_tests(file: &Path) -> String {
    let is_test = file.components().any(|it| matches!(it.as_os_str().to_str(), Some("tests")));
    if is_test || file.file_name().is_some_and(|it| it == "tests.rs") {
        return String::new();
    }
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: Vec<&str> =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    code.join("\n")
}

/// The rooms that a text reaches through `crate::name` or `crate::{name, ...}`.
fn imports(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (start, path) in code.match_indices("crate::") {
        let rest = &code[start + path.len()..];
        match rest.strip_prefix('{') {
            Some(list) => rooms.extend(first_names(list)),
            None => rooms.push(leading_name(rest)),
        }
    }
    rooms
}

/// The first name of each item in a list, up to the brace that closes it.
fn first_names(list: &str) -> Vec<String> {
    let (mut names, mut depth, mut begins) = (Vec::new(), 0, true);
    for (at, symbol) in list.char_indices() {
        match symbol {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !symbol.is_whitespace() => {
                names.push(leading_name(&list[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

fn leading_name(text: &str) -> String {
    text.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect()
}

/// The room that a file is in: its first folder, or its own name.
fn room_of(file: &Path) -> String {
    let inside = file.strip_prefix(root()).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![root()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

//! Checks the allowed imports between the modules of both programs, the length of files, and that every
//! file begins with a `//!` header. It reads the sources as text. Unit tests inside a file may import
//! anything.

use std::{
    fs,
    path::{Path, PathBuf},
};

use backscroll_testkit::folder::rust_files;

/// The modules of a program, top layer first. A module may import those named beside it, all of which
/// are below it.
type Plan = &'static [(&'static str, &'static [&'static str])];

/// The history service.
const HISTORY_PLAN: Plan = &[
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
            "comparison",
            "access",
            "graph",
            "visibility",
            "pdu",
            "metrics",
            "slow_walks",
            "deadline",
        ],
    ),
    ("verify", &["ingest", "store", "state", "pdu", "num"]),
    // From `ingest` it takes the types that describe decisions about events.
    (
        "query",
        &[
            "ingest",
            "comparison",
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
    ("comparison", &["graph"]),
    ("ingest", &["context", "store", "room_format", "graph", "visibility", "state", "pdu", "num"]),
    ("context", &["store", "pdu", "metrics", "slow_walks", "backlog", "sync"]),
    ("backup", &["room_format", "pdu", "num"]),
    ("store", &["state", "visibility", "num", "sync"]),
    ("picture", &[]),
    ("room_format", &[]),
    ("state", &["pdu", "num"]),
    ("access", &[]),
    ("visibility", &[]),
    ("graph", &[]),
    ("pdu", &[]),
    ("metrics", &[]),
    ("slow_walks", &[]),
    ("backlog", &[]),
    ("deadline", &[]),
    ("num", &[]),
    ("sync", &[]),
    ("telemetry", &[]),
    ("proto", &[]),
];
/// The gateway.
const GATEWAY_PLAN: Plan = &[
    ("main", &[]),
    ("lib", &[]),
    ("command", &["config", "shadow"]),
    ("config", &["server", "shadow", "fallback", "history", "keys", "limits", "clock"]),
    (
        "server",
        &[
            "connection",
            "handshakes",
            "router",
            "context",
            "shadow",
            "fallback",
            "history",
            "keys",
            "limits",
            "metrics",
            "clock",
            "random",
        ],
    ),
    (
        "connection",
        &[
            "handshakes",
            "outgoing",
            "observe",
            "admission",
            "context",
            "wire",
            "limits",
            "client_address",
        ],
    ),
    ("handshakes", &["limits"]),
    ("router", &["routes", "framing", "observe", "admission", "context", "error"]),
    // Only tests and fuzzing compile it.
    ("properties", &["routes", "x_matrix"]),
    (
        "routes",
        &[
            "body",
            "observe",
            "admission",
            "context",
            "error",
            "answer",
            "x_matrix",
            "shadow",
            "fallback",
            "limits",
            "limiter",
            "proto",
            "client_address",
        ],
    ),
    ("outgoing", &["admission", "limits"]),
    ("body", &["admission", "error"]),
    ("framing", &["error"]),
    ("observe", &["error", "metrics", "log_sampler"]),
    ("admission", &["context", "error", "x_matrix", "limits", "limiter", "client_address"]),
    ("context", &["keys", "shadow", "fallback", "history", "limits", "metrics", "clock"]),
    ("shadow", &["error", "answer", "fallback", "history", "metrics", "clock", "random", "proto"]),
    ("error", &["answer", "x_matrix", "fallback", "limits", "proto"]),
    ("fallback", &["history", "limits", "metrics", "clock", "proto"]),
    ("answer", &[]),
    ("x_matrix", &["keys", "client_address"]),
    (
        "keys",
        &["discovery", "history", "single_flight", "back_off", "client_address", "clock", "random"],
    ),
    ("discovery", &["back_off", "clock", "random"]),
    ("history", &["limits", "metrics", "single_flight", "proto"]),
    ("wire", &["limits", "metrics", "limiter", "client_address"]),
    ("limits", &["metrics", "limiter", "log_sampler", "client_address"]),
    ("metrics", &["limiter"]),
    ("limiter", &[]),
    ("log_sampler", &[]),
    ("single_flight", &[]),
    ("client_address", &[]),
    ("back_off", &["random"]),
    ("clock", &[]),
    ("random", &[]),
    ("proto", &[]),
];
/// The follower of Synapse.
const SYNAPSE_PLAN: Plan = &[
    ("main", &[]),
    ("lib", &[]),
    ("cli", &["export", "follow", "check", "database", "history"]),
    ("export", &["follow", "database"]),
    ("follow", &["check", "metrics", "health", "database", "history", "digest", "proto"]),
    ("check", &["database"]),
    ("metrics", &["health", "history"]),
    ("health", &[]),
    ("database", &["digest", "proto"]),
    ("history", &["digest", "proto"]),
    ("digest", &["proto"]),
    ("proto", &[]),
];

const MAX_LINES: usize = 450;

#[test]
fn imports_of_the_history_service_point_down() {
    check_imports(HISTORY_PLAN, &root("src"));
}

#[test]
fn imports_of_the_gateway_point_down() {
    check_imports(GATEWAY_PLAN, &root("gateway/src"));
}

#[test]
fn imports_of_the_follower_point_down() {
    check_imports(SYNAPSE_PLAN, &root("synapse/src"));
}

fn check_imports(plan: Plan, root: &Path) {
    for (layer, (module, may_import)) in plan.iter().enumerate() {
        for target in *may_import {
            let below = plan.iter().position(|(name, _)| name == target);
            assert!(below > Some(layer), "the plan lets `{module}` import `{target}` above it");
        }
    }
    let mut seen = 0;
    for file in rust_files(root) {
        let module = module_of(&file, root);
        let (_, may_import) = plan
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("`{module}` has no layer in the plan"));
        for target in imports(&without_tests(&file)) {
            let is_known = plan.iter().any(|(name, _)| *name == target);
            let is_allowed = target == module || may_import.contains(&target.as_str());
            let file = file.display();
            assert!(!is_known || is_allowed, "{file}: `{module}` must not import `{target}`");
            seen += usize::from(is_known);
        }
    }
    assert!(seen > 50, "only {seen} imports were found: are the sources read correctly?");
}

#[test]
fn files_are_short_and_have_a_header() {
    for folder in ["src", "gateway/src", "grpc-client/src", "synapse/src"] {
        for file in rust_files(&root(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            let lines = text.lines().count();
            assert!(lines <= MAX_LINES, "{}: {lines} lines, at most {MAX_LINES}", file.display());
            assert!(text.starts_with("//!"), "{}: does not begin with `//!`", file.display());
        }
    }
}

#[test]
fn each_engine_is_called_by_its_own_file() {
    let root = root("src");
    let engine = root.join("store/engine");
    let calls = ["use sled", "sled::Config", "sled::Db", "sled::Error", "sled::Result", "IVec"];
    for file in rust_files(&root) {
        let code = without_tests(&file);
        let has_calls = calls.iter().any(|it| code.contains(it));
        // A value is held as the engine returned it.
        let may_call = file == engine.join("sled.rs") || file == engine.join("value.rs");
        assert!(!has_calls || may_call, "{}: calls sled", file.display());
        let names = code.contains("sled::") || code.contains("use sled");
        assert!(!names || file.starts_with(&engine), "{}: names sled", file.display());
        let calls_fjall = code.contains("fjall::{Database") || code.contains("fjall::Error");
        assert!(!calls_fjall || file == engine.join("fjall.rs"), "{}: calls fjall", file.display());
    }
}

#[test]
fn only_handlers_and_clients_use_proto_types() {
    let root = root("src");
    for file in rust_files(&root) {
        let module = module_of(&file, &root);
        let text = without_tests(&file);
        let is_a_handler = matches!(module.as_str(), "rpc" | "server" | "cli" | "proto");
        assert!(is_a_handler || !text.contains("tonic::"), "{}: uses tonic", file.display());
    }
}

#[test]
fn requests_leave_the_async_threads_through_the_executor_only() {
    let rpc = root("src/rpc");
    for file in rust_files(&rpc) {
        let is_executor = file.ends_with("executor.rs");
        let leaves = without_tests(&file).contains("spawn_blocking");
        assert!(is_executor == leaves, "{}: use `Executor`", file.display());
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

/// The modules that a text imports through `crate::name` or `crate::{name, ...}`.
fn imports(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (start, path) in code.match_indices("crate::") {
        let rest = &code[start + path.len()..];
        match rest.strip_prefix('{') {
            Some(list) => modules.extend(first_names(list)),
            None => modules.push(leading_name(rest)),
        }
    }
    modules
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

/// The module that a file belongs to: its first folder, or its own name.
fn module_of(file: &Path, root: &Path) -> String {
    let inside = file.strip_prefix(root).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn root(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

//! Documentation is true: the tables of flags and commands in `docs/` equal those of the programs, and
//! every path and every name between backquotes exists, in `docs/` and in the `//!` comments.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use backscroll::cli::Cli;
use backscroll_gateway::{command::Invocation, config::Config};
use clap::{Arg, Command, CommandFactory as _};

/// A flag's variable and its default, empty if there is none.
type Flags = BTreeMap<String, (String, String)>;

/// A page of the documentation.
fn page(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).unwrap()
}

/// The rows of the table in `docs/configuration.md` whose head begins with these words.
fn documented(head: &str) -> Flags {
    let page = page("configuration.md");
    let lines = page.lines().skip_while(|it| !it.starts_with(head)).skip(2);
    let rows = lines.take_while(|it| it.starts_with('|')).map(|line| {
        let cells: Vec<String> =
            line.split('|').map(|it| it.trim().trim_matches('`').to_owned()).collect();
        let flag = cells[1].split(' ').next().unwrap().to_owned();
        (flag, (cells[2].clone(), cells[3].clone()))
    });
    rows.collect()
}

fn of_the_program<'a>(arguments: impl Iterator<Item = &'a Arg>) -> Flags {
    let flags = arguments.filter(|it| !["help", "version"].contains(&it.get_id().as_str()));
    let flag = |it: &Arg| {
        let default = it.get_default_values().first();
        let text = |it: &std::ffi::OsStr| it.to_string_lossy().into_owned();
        let values = (it.get_env().map(text), default.map(|it| text(it.as_os_str())));
        let (variable, default) = (values.0.unwrap_or_default(), values.1.unwrap_or_default());
        (format!("--{}", it.get_long().unwrap()), (variable, default))
    };
    flags.map(flag).collect()
}

#[test]
fn every_flag_of_the_history_service() {
    let mut cli = Cli::command();
    cli.build();
    let serve = cli.get_subcommands().find(|it| it.get_name() == "serve").unwrap();
    let program = of_the_program(serve.get_arguments());
    assert_eq!(documented("| `backscroll serve` |"), program);
}

#[test]
fn every_flag_of_the_gateway() {
    let gateway = Config::command();
    let program = of_the_program(Command::get_arguments(&gateway));
    assert_eq!(documented("| `backscroll-gateway` |"), program);
}

#[test]
fn every_flag_of_the_follower() {
    let mut cli = backscroll_synapse::cli::Cli::command();
    cli.build();
    let follow = cli.get_subcommands().find(|it| it.get_name() == "follow").unwrap();
    let program = of_the_program(follow.get_arguments());
    assert_eq!(documented("| `backscroll-synapse follow` |"), program);
}

#[test]
fn every_command() {
    let cli = Cli::command();
    let page = page("operations.md");
    for command in cli.get_subcommands() {
        let row = format!("| `backscroll {}", command.get_name());
        assert!(page.lines().any(|it| it.starts_with(&row)), "{row} …");
    }
}

/// The folders of the workspace that contain code.
const CODE: [&str; 13] = [
    "benches",
    "docker",
    "examples",
    "fuzz/targets",
    "gateway",
    "grpc-client",
    "matrix",
    "postgres",
    "proto",
    "src",
    "synapse",
    "telemetry",
    "testkit",
];
/// The folders of programs in other languages, whose words documentation may use too.
const OTHER_CODE: [&str; 3] = ["tests", "tls", ".ci"];
/// Names of other software, which this repository does not define.
const FOREIGN: [&str; 11] = [
    "ignore_startup_parameters",
    "GHSA",
    "RUSTSEC",
    "None",
    "Some",
    "Ok",
    "Err",
    "RFC",
    "StatefulSet",
    "close_notify",
    "Retry-After",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder with one of these extensions.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let extension = path.extension().unwrap_or_default().to_string_lossy();
            if path.is_dir() && !path.ends_with("target") && !path.ends_with("rooms") {
                folders.push(path);
            } else if extensions.contains(&extension.as_ref()) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The pages of the documentation.
fn pages() -> Vec<PathBuf> {
    let mut pages = files(&root().join("docs"), &["md"]);
    pages.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|it| root().join(it)));
    pages
}

/// A place in the documentation, and a text between backquotes.
struct Quoted {
    place: String,
    text: String,
}

/// The texts between backquotes in a page, outside of code blocks.
fn quoted(path: &Path, lines: impl Iterator<Item = (usize, String)>) -> Vec<Quoted> {
    let mut is_code = false;
    let mut found = Vec::new();
    for (number, line) in lines {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            let place = format!("{}:{number}", path.strip_prefix(root()).unwrap().display());
            let texts = line.split('`').skip(1).step_by(2);
            found.extend(texts.map(|it| Quoted { place: place.clone(), text: it.to_owned() }));
        }
    }
    found
}

/// Everything between backquotes in the pages and in the `//!` comments.
fn all_quoted() -> Vec<Quoted> {
    let numbered = |text: String| {
        text.lines().map(str::to_owned).enumerate().map(|(at, it)| (at + 1, it)).collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for page in pages() {
        let lines = numbered(fs::read_to_string(&page).unwrap());
        found.extend(quoted(&page, lines.into_iter()));
    }
    for folder in CODE.iter().chain(&OTHER_CODE) {
        for file in files(&root().join(folder), &["rs"]) {
            let lines = numbered(fs::read_to_string(&file).unwrap());
            let header = lines.into_iter().filter(|it| it.1.trim_start().starts_with("//!"));
            let header = header.map(|(at, it)| (at, it.replacen("//!", "", 1)));
            found.extend(quoted(&file, header));
        }
    }
    found
}

/// Every word of the code, without comments.
fn words() -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let mut paths = vec![root().join("Cargo.toml"), root().join(".ci/run")];
    for folder in CODE.iter().chain(&OTHER_CODE) {
        let extensions = ["rs", "proto", "c", "py", "sh", "yaml", "toml", "env", "json"];
        paths.extend(files(&root().join(folder), &extensions));
    }
    paths.extend(
        ["docker/prove", "fuzz/run", "tests/citus/run", "tests/synapse/run"]
            .map(|it| root().join(it)),
    );
    for path in paths {
        // This file names words that do not exist.
        if path.ends_with("tests/it/docs.rs") {
            continue;
        }
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            let code = line.split("//").next().unwrap_or_default();
            let split = code.split(|it: char| !it.is_alphanumeric() && it != '_');
            words.extend(split.filter(|it| !it.is_empty()).map(str::to_owned));
        }
    }
    words
}

/// The flags of all programs and commands, and their variables.
fn flags() -> BTreeSet<String> {
    fn add(command: &Command, found: &mut BTreeSet<String>) {
        for argument in command.get_arguments() {
            found.extend(argument.get_long().map(|it| format!("--{it}")));
            found.extend(argument.get_env().map(|it| it.to_string_lossy().into_owned()));
        }
        command.get_subcommands().for_each(|it| add(it, found));
    }
    let mut found = BTreeSet::new();
    add(&Cli::command(), &mut found);
    add(&Invocation::command(), &mut found);
    add(&backscroll_synapse::cli::Cli::command(), &mut found);
    // The flags of the measurement, of cargo and of clap.
    let others = ["--help", "--version", "--events", "--members", "--json", "--plot", "--rounds"];
    found.extend(others.map(str::to_owned));
    found.extend(["--ingest", "--bench", "--seconds", "--tries", "--target"].map(str::to_owned));
    found
}

/// Whether a word looks like a name of the code: `snake_case`, `CamelCase` or `UPPER_CASE`.
fn is_name(word: &str) -> bool {
    let is_camel = word.chars().next().is_some_and(char::is_uppercase)
        && word.chars().skip(1).any(char::is_uppercase)
        && word.chars().any(char::is_lowercase);
    word.contains('_') || is_camel
}

/// A metric's name without the suffixes that Prometheus adds, and the same without its prefix.
fn metric(name: &str) -> [&str; 2] {
    let suffixes = ["_total", "_bucket", "_info", "_seconds", "_bytes"];
    let name = suffixes.iter().find_map(|it| name.strip_suffix(it)).unwrap_or(name);
    let prefixes = ["backscroll_gateway_", "backscroll_synapse_", "backscroll_"];
    let bare = prefixes.iter().find_map(|it| name.strip_prefix(it));
    [name, bare.unwrap_or_default()]
}

/// The test whose number of rounds or seed a variable sets.
fn rounds(variable: &str) -> &str {
    let name = variable.strip_prefix("BACKSCROLL_").unwrap_or_default();
    ["_ROUNDS", "_SEED"].iter().find_map(|it| name.strip_suffix(it)).unwrap_or_default()
}

/// Why a text between backquotes is wrong; `None` if every name in it exists.
fn fault(text: &str, words: &BTreeSet<String>, flags: &BTreeSet<String>) -> Option<String> {
    let first = text.split([' ', '=']).next().unwrap_or_default();
    if first.starts_with("--") && first.len() > 2 {
        return (!flags.contains(first)).then(|| format!("no program has the flag {first}"));
    }
    let is_item = |it: char| it.is_alphanumeric() || it == '_' || it == ':';
    if !first.chars().all(is_item) || first != text.trim_end_matches("()") {
        return None;
    }
    for word in first.split("::").filter(|it| is_name(it) || first.contains("::")) {
        let exists = words.contains(word)
            || flags.contains(word)
            || FOREIGN.contains(&word)
            || metric(word).iter().any(|it| words.contains(*it))
            || words.contains(rounds(word));
        if !exists {
            return Some(format!("{word} does not exist"));
        }
    }
    None
}

#[test]
fn every_name_in_the_documentation_exists() {
    let words = words();
    let flags = flags();
    let quoted = all_quoted();
    assert!(quoted.len() > 300, "only {} texts were found", quoted.len());
    let faults: Vec<String> = quoted
        .iter()
        .filter_map(|it| Some(format!("{}: {}", it.place, fault(&it.text, &words, &flags)?)))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_name_that_does_not_exist_is_a_fault() {
    let words = words();
    let flags = flags();
    for text in ["Store::no_such_name", "no_such_metric_total", "--no-such-flag", "NoSuchRpc"] {
        assert!(fault(text, &words, &flags).is_some(), "{text}");
    }
    for text in ["Store::open", "backscroll_writes_durable", "--data-dir DIR", "GetRoom"] {
        assert_eq!(fault(text, &words, &flags), None, "{text}");
    }
}

#[test]
fn every_path_in_the_documentation_exists() {
    const FOLDERS: [&str; 13] = [
        "src/",
        "gateway/",
        "tests/",
        "docker/",
        "docs/",
        "benches/",
        "fuzz/",
        "examples/",
        "testkit/",
        "matrix/",
        "grpc-client/",
        "proto/",
        "synapse/",
    ];
    let mut seen = 0;
    let mut check = |place: &str, name: &str| {
        let name = name.split(['#', ' ']).next().unwrap_or_default().trim_end_matches(['.', ':']);
        let is_path = FOLDERS.iter().any(|it| name.starts_with(it));
        if is_path && !name.contains(['*', '<', '{']) {
            assert!(root().join(name).exists(), "{place}: {name} does not exist");
            seen += 1;
        }
    };
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let place = page.display().to_string();
        text.split(['`', '(', ')', ' ', ',', '\n']).for_each(|name| check(&place, name));
    }
    all_quoted().iter().for_each(|it| check(&it.place, &it.text));
    assert!(seen > 50, "only {seen} paths were found");
}

#[test]
fn images_are_built_with_the_minimum_version() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let manifest = read("Cargo.toml");
    let line = manifest.lines().find_map(|it| it.strip_prefix("rust-version = \"")).unwrap();
    let version = line.trim_end_matches('"');
    assert!(read("docker/Dockerfile").contains(&format!("rust:{version}-")), "{version}");
}

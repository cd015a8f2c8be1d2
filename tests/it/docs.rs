//! The tables of flags and commands in `docs/` are what the programs say of themselves.

use std::{collections::BTreeMap, fs, path::Path};

use backscroll::cli::Cli;
use backscroll_gateway::config::Config;
use clap::{Arg, Command, CommandFactory as _};

/// A flag's variable and its default, empty if there is none.
type Flags = BTreeMap<String, (String, String)>;

/// A page of the documentation.
fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// The rows of the table of `docs/configuration.md` whose head begins with these words.
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
fn every_command() {
    let cli = Cli::command();
    let page = page("operations.md");
    for command in cli.get_subcommands() {
        let row = format!("| `backscroll {}", command.get_name());
        assert!(page.lines().any(|it| it.starts_with(&row)), "{row} …");
    }
}

/// Files that a page names are there. A page that names a file that has moved misleads.
#[test]
fn every_path_in_the_documentation_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    for folder in ["docs", "docs/decisions"] {
        let entries = fs::read_dir(root.join(folder)).unwrap().map(|it| it.unwrap().path());
        pages.extend(entries.filter(|it| it.extension().is_some_and(|it| it == "md")));
    }
    let mut seen = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for name in text.split(['`', '(', ')', ' ', ',', '\n']) {
            let name = name.trim_end_matches(['.', ':']);
            let is_path = ["src/", "gateway/", "tests/", "docker/", "docs/", "benches/", "fuzz/"]
                .iter()
                .any(|it| name.starts_with(it));
            if is_path && !name.contains(['*', '<', '{']) {
                assert!(root.join(name).exists(), "{}: {name} is not there", page.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "only {seen} paths were found");
}

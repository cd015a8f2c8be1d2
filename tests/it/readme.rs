//! The README's tables of flags are what the programs say of themselves.

use std::{collections::BTreeMap, fs, path::Path};

use backscroll::cli::Cli;
use backscroll_gateway::config::Config;
use clap::{Arg, Command, CommandFactory as _};

/// A flag's variable and its default, empty if there is none.
type Flags = BTreeMap<String, (String, String)>;

/// The rows of the table whose head begins with these words.
fn in_the_readme(head: &str) -> Flags {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(path).unwrap();
    let lines = readme.lines().skip_while(|it| !it.starts_with(head)).skip(2);
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
    assert_eq!(in_the_readme("| `backscroll serve` |"), program);
}

#[test]
fn every_flag_of_the_gateway() {
    let gateway = Config::command();
    let program = of_the_program(Command::get_arguments(&gateway));
    assert_eq!(in_the_readme("| `backscroll-gateway` |"), program);
}

#[test]
fn every_command() {
    let cli = Cli::command();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(path).unwrap();
    for command in cli.get_subcommands() {
        let row = format!("| `backscroll {}", command.get_name());
        assert!(readme.lines().any(|it| it.starts_with(&row)), "{row} …");
    }
}

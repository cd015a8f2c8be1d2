//! The README's tables of flags and commands are what the programs say of themselves.

use std::{collections::BTreeSet, fs, path::Path};

use backscroll::cli::Cli;
use backscroll_gateway::config::Config;
use clap::{Arg, CommandFactory as _};

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The rows of tables from one line of the README to another.
fn rows<'a>(readme: &'a str, from: &str, to: &str) -> Vec<&'a str> {
    let section = readme.lines().skip_while(|it| !it.starts_with(from));
    section.take_while(|it| !it.starts_with(to)).filter(|it| it.starts_with('|')).collect()
}

/// Every flag has a row, with its default beside it; and no row is about a flag that is not there.
fn hold<'a>(rows: &[&str], arguments: impl Iterator<Item = &'a Arg>) {
    let mut flags = BTreeSet::new();
    for argument in arguments {
        let Some(name) = argument.get_long().filter(|it| !["help", "version"].contains(it)) else {
            continue;
        };
        let (alone, with_value) = (format!("`--{name}`"), format!("`--{name} "));
        let row = rows.iter().find(|it| it.contains(&alone) || it.contains(&with_value));
        let row = row.unwrap_or_else(|| panic!("--{name} has no row"));
        if let Some(default) = argument.get_default_values().first() {
            let default = format!("`{}`", default.to_string_lossy());
            assert!(row.contains(&default), "--{name} has the default {default}, not as in {row}");
        }
        flags.insert(name);
    }
    for row in rows {
        for named in row.split("`--").skip(1) {
            let named = named.split(['`', ' ']).next().unwrap();
            assert!(flags.contains(named), "there is no --{named}");
        }
    }
}

#[test]
fn every_flag_of_the_history_service() {
    let mut cli = Cli::command();
    cli.build();
    let serve = cli.get_subcommands().find(|it| it.get_name() == "serve").unwrap();
    let (from, to) = ("| `backscroll serve` |", "| `backscroll-gateway` |");
    hold(&rows(&readme(), from, to), serve.get_arguments());
}

#[test]
fn every_flag_of_the_gateway() {
    let gateway = Config::command();
    let (from, to) = ("| `backscroll-gateway` |", "## ");
    hold(&rows(&readme(), from, to), gateway.get_arguments());
}

#[test]
fn every_command() {
    let readme = readme();
    for command in Cli::command().get_subcommands() {
        let row = format!("| `backscroll {}", command.get_name());
        assert!(readme.lines().any(|it| it.starts_with(&row)), "{row} …");
    }
}

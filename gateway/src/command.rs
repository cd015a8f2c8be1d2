//! The command line: without a command the gateway serves.

use clap::{ArgMatches, Args as _, Command, CommandFactory as _, FromArgMatches as _};

use crate::{config::Config, shadow::ShadowReportFlags};

const SHADOW_REPORT: &str = "shadow-report";

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Invocation {
    /// To serve, with this configuration.
    Serve(Box<Config>),
    /// To print what a running gateway has found.
    ShadowReport(ShadowReportFlags),
}

impl Invocation {
    /// The whole command line, with all commands.
    #[must_use]
    pub fn command() -> Command {
        let about = "Prints how the homeserver's answers compare with ours, from a running gateway";
        let report = ShadowReportFlags::augment_args(Command::new(SHADOW_REPORT)).about(about);
        Config::command()
            .subcommand(report)
            .subcommand_negates_reqs(true)
            .args_conflicts_with_subcommands(true)
            .disable_help_subcommand(true)
    }

    /// Reads the command line of this process. Ends the process if it is not valid, and after `--help`
    /// and `--version`.
    #[must_use]
    pub fn parse() -> Self {
        let read = Self::read(&Self::command().get_matches());
        read.unwrap_or_else(|error| error.exit())
    }

    fn read(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand() {
            Some((SHADOW_REPORT, matches)) => {
                ShadowReportFlags::from_arg_matches(matches).map(Self::ShadowReport)
            }
            _ => Config::from_arg_matches(matches).map(|it| Self::Serve(Box::new(it))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Invocation, clap::Error> {
        let all = ["backscroll-gateway"].iter().chain(arguments);
        Invocation::read(&Invocation::command().try_get_matches_from(all)?)
    }

    #[test]
    fn without_a_command_the_gateway_serves() {
        Invocation::command().debug_assert();
        let served = read(&["--server-name", "a.example", "--history", "http://h:8470"]);
        assert!(matches!(served, Ok(Invocation::Serve(_))), "{served:?}");
        assert!(read(&["--history", "http://h:8470"]).is_err());
        assert!(read(&[]).is_err());
    }

    #[test]
    fn the_report_needs_no_other_flags() {
        let report = read(&["shadow-report", "--url", "http://gateway:9471"]);
        let Ok(Invocation::ShadowReport(flags)) = report else { panic!("{report:?}") };
        assert_eq!(flags.url, "http://gateway:9471");
        assert!(read(&["shadow-report", "--server-name", "a.example"]).is_err());
        assert!(read(&["report"]).is_err());
    }

    #[test]
    fn answers_are_compared_only_with_a_homeserver() {
        let base = ["--server-name", "a.example", "--history", "http://h:8470"];
        let beside = ["--fallback", "http://s:8008"];
        let shadow = ["--shadow", "answer=synapse"];
        assert!(read(&[&base[..], &shadow].concat()).is_err());
        let all = [&base[..], &beside, &shadow, &["--shadow-rate", "0.1"]].concat();
        let Ok(Invocation::Serve(config)) = read(&all) else { panic!("{all:?}") };
        assert_eq!(config.shadow.into_options().map(|it| it.rate), Some(0.1));
        assert!(read(&[&base[..], &beside, &["--shadow", "synapse"]].concat()).is_err());
    }
}

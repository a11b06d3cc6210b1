//! The command line: types only, no I/O.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use grayxdp_common::weight::Weight;

use crate::{
    config::{BPFFS_DEFAULT, SOCKET_DEFAULT},
    percent::weight_from_text,
};

/// Grayscale (canary) releases for any TCP or UDP service, in the kernel.
///
/// The agent (`grayxdp run`) splits the new connections of a service between two versions, v1 and v2, and moves v2's
/// share along a schedule. The other commands talk to the agent, or look at a config file.
#[derive(Parser, Debug)]
#[command(name = "grayxdp", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// What holds for all commands.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  grayxdp check lb.toml                 is the config file right?
  grayxdp plan lb.toml                  how will the weights move?
  grayxdp run --config lb.toml          run the agent
  grayxdp start web                     begin the release of `web`
  grayxdp status                        where does everything stand?
  grayxdp rollback web                  all new connections to v1, now
  grayxdp -o json status | jq .services[0].weight

Exit codes: 0 done; 1 error; 2 wrong usage; 5 the agent cannot be reached.";

/// Options of all commands.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// The agent's control socket.
    #[arg(long, global = true, env = "GRAYXDP_SOCKET", default_value = SOCKET_DEFAULT, value_name = "PATH")]
    pub socket: PathBuf,
    /// For people, or for programs.
    #[arg(short, long, global = true, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    /// Sentences and tables.
    Text,
    /// One JSON object.
    Json,
}

/// All commands.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Run the agent in the foreground.
    ///
    /// It loads the packet program, attaches it, and lets the releases go on where they stood. When it ends (SIGTERM,
    /// SIGINT, or a crash), traffic goes on at the weights it had; `grayxdp detach` takes everything down.
    #[command(after_help = "Example:\n  grayxdp run --config /etc/grayxdp/lb.toml")]
    Run {
        /// The config file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a config file; changes nothing.
    ///
    /// All errors are shown at once, each with its line and what to do about it.
    #[command(after_help = "Examples:\n  grayxdp check lb.toml\n  grayxdp -o json check lb.toml")]
    Check {
        /// The config file.
        file: PathBuf,
    },
    /// Show how a config file's schedules will move the weights; changes nothing.
    #[command(after_help = "Examples:\n  grayxdp plan lb.toml\n  grayxdp plan lb.toml --service web -o json")]
    Plan {
        /// The config file.
        file: PathBuf,
        /// Only this service.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
    },
    /// A command for the agent.
    #[command(flatten)]
    Client(ClientCommand),
    /// Take the packet program and all its state out of the kernel.
    ///
    /// New and open connections are no longer split, or forwarded at all. A running agent is asked to do it, and ends.
    #[command(after_help = "Examples:\n  grayxdp detach\n  grayxdp detach --bpffs /sys/fs/bpf/other")]
    Detach {
        /// Directory of the pins; if left out, the running agent's, or /sys/fs/bpf/grayxdp
        #[arg(long, value_name = "DIR")]
        bpffs: Option<PathBuf>,
    },
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  grayxdp completions bash > /usr/share/bash-completion/completions/grayxdp")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Commands that the agent carries out.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum ClientCommand {
    /// Show where services and releases stand.
    #[command(after_help = "Examples:\n  grayxdp status\n  grayxdp status web -o json")]
    Status(ServiceArgs),
    /// Begin a release: the weight follows its schedule.
    #[command(after_help = "Examples:\n  grayxdp start web\n  grayxdp start       # with just one service")]
    Start(ServiceArgs),
    /// Set v2's weight by hand, and stop the schedule there.
    ///
    /// `resume` lets the schedule go on from there.
    #[command(
        allow_missing_positional = true,
        allow_negative_numbers = true,
        after_help = "Examples:\n  grayxdp set-weight web 12.5\n  grayxdp set-weight 12.5       # with just one service"
    )]
    SetWeight {
        /// The service; may be left out when there is just one.
        service: Option<String>,
        /// v2's share of new connections, 0 to 100 with at most two decimals.
        #[arg(value_parser = parse_weight)]
        percent: Weight,
    },
    /// Stop a release where it stands.
    #[command(after_help = "Example:\n  grayxdp freeze web")]
    Freeze(ServiceArgs),
    /// Let a frozen release go on.
    #[command(after_help = "Example:\n  grayxdp resume web")]
    Resume(ServiceArgs),
    /// Send all new connections to v1, at once.
    #[command(after_help = "Example:\n  grayxdp rollback web")]
    Rollback(ServiceArgs),
    /// Send all new connections to v2, at once.
    #[command(after_help = "Example:\n  grayxdp promote web")]
    Promote(ServiceArgs),
}

/// The service that is meant.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct ServiceArgs {
    /// The service; may be left out when there is just one.
    pub service: Option<String>,
}

/// Where the pins are, when neither the command line nor an agent says so.
pub const DETACH_BPFFS_DEFAULT: &str = BPFFS_DEFAULT;

fn parse_weight(text: &str) -> Result<Weight, String> {
    weight_from_text(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("grayxdp").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lines_mean_these_commands() {
        let web = || ServiceArgs { service: Some("web".to_owned()) };
        let weight = |hundredths| Weight::from_hundredths(hundredths).expect("in range");
        for (line, expected) in [
            ("status", ClientCommand::Status(ServiceArgs { service: None })),
            ("status web", ClientCommand::Status(web())),
            ("start web", ClientCommand::Start(web())),
            ("rollback", ClientCommand::Rollback(ServiceArgs { service: None })),
            ("set-weight web 12.5", ClientCommand::SetWeight { service: web().service, percent: weight(1250) }),
            ("set-weight 0.01", ClientCommand::SetWeight { service: None, percent: weight(1) }),
            ("set-weight 100%", ClientCommand::SetWeight { service: None, percent: weight(10_000) }),
        ] {
            let cli = parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(matches!(cli.command, Command::Client(command) if command == expected), "{line}");
        }
    }

    #[test]
    fn options_may_stand_before_and_after_the_command() {
        for line in ["-o json --socket /s status", "status --output json --socket /s"] {
            let global = parse(line).expect(line).global;
            assert_eq!((global.output, global.socket), (Output::Json, PathBuf::from("/s")), "{line}");
        }
    }

    #[test]
    fn wrong_usage_is_told_apart_by_exit_code_2() {
        for (line, part) in [
            ("set-weight web 12.345", "two"),
            ("set-weight web 101", "0 to 100"),
            ("set-weight web -1", "0 to 100"),
            ("set-weight web", "such as 12.5"),
            ("set-weight", "required"),
            ("run", "--config"),
            ("status -o yaml", "json"),
            ("stat", "status"),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }
}

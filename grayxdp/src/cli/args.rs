//! The command line: types only, no I/O.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use grayxdp_common::weight::Weight;

use super::{
    explain::ExplainArgs,
    flows::FlowsArgs,
    history::HistoryArgs,
    trace::TraceArgs,
    wait::{StatusArgs, WAIT_HELP},
};
use crate::{
    cidr::Network,
    config::{
        BACKEND_WEIGHT_DEFAULT, BACKEND_WEIGHT_MAX, BPFFS_DEFAULT, SOCKET_DEFAULT, part_from_text, rate_from_text,
    },
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
  grayxdp simulate sim.toml             how soon is a bad version found?
  grayxdp run --config lb.toml          run the agent
  grayxdp start web                     begin the release of `web`
  grayxdp status                        where does everything stand?
  grayxdp status web --wait             until v2 is promoted, or will not be
  grayxdp rollback web                  all new connections to v1, now
  grayxdp -o json status | jq .services[0].weight

Exit codes: 0 done; 1 error; 2 wrong usage; 5 the agent cannot be reached. `status --wait` has more: see its help.";

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
    ///
    /// Reckons with hold, max_step, gates and promote_after: what a release takes of which nothing bad is found. What the
    /// judge, other systems and people hold up comes on top.
    ///
    /// With --rate it also says how long the judge takes, at each weight, to find a v2 that fails so many times as often
    /// as v1, and to prove that one as good as v1 is no worse.
    #[command(
        after_help = "Examples:\n  grayxdp plan lb.toml\n  grayxdp plan lb.toml --service web -o json\n  grayxdp plan lb.toml --rate 1000/s --base-error 0.5%"
    )]
    Plan {
        /// The config file.
        file: PathBuf,
        /// Only this service.
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// Connections a second.
        #[arg(long, value_name = "N/s", value_parser = rate_from_text)]
        rate: Option<f64>,
        /// The part of v1's connections that fails.
        #[arg(long, value_name = "PERCENT", default_value = "0.1%", value_parser = part_from_text, requires = "rate")]
        base_error: f64,
    },
    /// Run many releases against modelled traffic: how often is v2 rolled back, rightly or wrongly, and how soon?
    ///
    /// The file has a `[simulate]` table with `runs`, `duration`, `rate`, `base_error`, `v2_error_ratio`,
    /// `v2_latency_ratio`, `burst_mean`, `drift`, `fault_at` and `seed`, each with a default; beside it there may be
    /// services, of which the release is simulated. Judge and controller are the agent's own. A release that fails at its
    /// progress deadline counts as rolled back, for all of it is on v1 again.
    #[command(after_help = "Examples:\n  grayxdp simulate sim.toml\n  grayxdp simulate sim.toml --service web -o json")]
    Simulate {
        /// The file.
        file: PathBuf,
        /// This service; the first one if left out.
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
    #[command(after_help = WAIT_HELP)]
    Status(StatusArgs),
    /// Show what was decided of releases, by whom, and on which figures; the latest last.
    #[command(
        after_help = "Examples:\n  grayxdp history\n  grayxdp history web --limit 5\n  grayxdp history web --follow\n  grayxdp history web -o json"
    )]
    History(HistoryArgs),
    /// Begin a release: the weight follows its schedule.
    #[command(after_help = "Examples:\n  grayxdp start web\n  grayxdp start       # with just one service")]
    Start(ServiceArgs),
    /// Set v2's weight by hand, and stop the schedule there.
    ///
    /// `resume` lets the schedule go on from there.
    #[command(
        allow_missing_positional = true,
        allow_negative_numbers = true,
        after_help = "Examples:\n  grayxdp set-weight web 12.5\n  grayxdp set-weight web 20 --shard internal\n  \
                      grayxdp set-weight 12.5       # with just one service"
    )]
    SetWeight {
        /// The service; may be left out when there is just one.
        service: Option<String>,
        /// v2's share of new connections, 0 to 100 with at most two decimals.
        #[arg(value_parser = parse_weight)]
        percent: Weight,
        /// Only this shard, by its name or number; all others stay as they are.
        #[arg(long, value_name = "NAME")]
        shard: Option<String>,
    },
    /// Stop a release where it stands.
    #[command(after_help = "Example:\n  grayxdp freeze web")]
    Freeze(ServiceArgs),
    /// Let a frozen release go on.
    #[command(after_help = "Example:\n  grayxdp resume web")]
    Resume(ServiceArgs),
    /// Let a release through the gate that it stands at.
    #[command(after_help = "Example:\n  grayxdp approve web")]
    Approve(ServiceArgs),
    /// Send all new connections to v1, at once.
    #[command(after_help = "Example:\n  grayxdp rollback web")]
    Rollback(ServiceArgs),
    /// Send all new connections to v2, at once.
    #[command(after_help = "Example:\n  grayxdp promote web")]
    Promote(ServiceArgs),
    /// Send some traffic to one version, whatever the weight.
    ///
    /// Pins are kept until `unpin`, over restarts of the agent too; the config file is not changed. A pin counts before
    /// one of the config for the same traffic. Open connections stay where they are.
    #[command(
        after_help = "Examples:\n  grayxdp pin web --source 198.51.100.0/24 --to v2\n  grayxdp pin web --dscp 46 --to v2"
    )]
    Pin {
        /// The service; may be left out when there is just one.
        service: Option<String>,
        /// Which traffic.
        #[command(flatten)]
        rule: RuleArgs,
        /// Where it goes.
        #[arg(long, value_name = "VERSION")]
        to: VersionArg,
    },
    /// Take a pin back that was set with `pin`.
    #[command(after_help = "Examples:\n  grayxdp unpin web --source 198.51.100.0/24\n  grayxdp unpin web --dscp 46")]
    Unpin {
        /// The service; may be left out when there is just one.
        service: Option<String>,
        /// Which traffic.
        #[command(flatten)]
        rule: RuleArgs,
    },
    /// List the pins of a service: those of the config, and those set with `pin`.
    #[command(after_help = "Examples:\n  grayxdp pins web\n  grayxdp pins web -o json")]
    Pins(ServiceArgs),
    /// Send no new connections to a backend; those that it has stay.
    ///
    /// Kept until `undrain`, over restarts of the agent too.
    #[command(
        allow_missing_positional = true,
        after_help = "Examples:\n  grayxdp drain web 10.0.1.10:8080\n  grayxdp drain 10.0.1.10:8080  # with just one service"
    )]
    Drain {
        /// The service; may be left out when there is just one.
        service: Option<String>,
        /// The backend, as in the config.
        address: String,
    },
    /// Send new connections to a drained backend again.
    #[command(allow_missing_positional = true, after_help = "Example:\n  grayxdp undrain web 10.0.1.10:8080")]
    Undrain {
        /// The service; may be left out when there is just one.
        service: Option<String>,
        /// The backend, as in the config.
        address: String,
    },
    /// List the flows that the kernel knows: clients, their backends, and how they are.
    ///
    /// The client of an IPv6 flow is known in mode full-nat only: the table has no more of it than a fingerprint.
    #[command(
        after_help = "Examples:\n  grayxdp flows\n  grayxdp flows web --version v2 --state established\n  grayxdp flows --client 198.51.100.7 -o json\n  grayxdp flows --backend 10.0.1.10:8080 --limit 0    # only count"
    )]
    Flows(FlowsArgs),
    /// Show packets as they come, and what becomes of them; until ctrl-C.
    ///
    /// Without --one-in, so many packets are left out that a busy host stays undisturbed; what is left out beyond that is
    /// said. One trace at a time. Nothing is sampled any more once the command has ended.
    #[command(
        after_help = "Examples:\n  grayxdp trace web --count 20\n  grayxdp trace --drops --for 10s\n  grayxdp trace web --one-in 1 --for 10s --write web.pcapng\n  grayxdp trace web --write - | tshark -r - -V"
    )]
    Trace(TraceArgs),
    /// Say where a client goes, and why.
    ///
    /// Asks the tables that the kernel goes by, in its order: flow, pin, shard, weight, backend. Nothing is sent.
    #[command(
        after_help = "Examples:\n  grayxdp explain --service web --from 198.51.100.7:40000\n  grayxdp explain --service web --from 198.51.100.7:40000 --port canary\n  grayxdp explain --from '[2001:db8::7]:40000' --dscp 46 -o json"
    )]
    Explain(ExplainArgs),
    /// Add and remove backends without touching the config file.
    #[command(subcommand)]
    Backend(BackendCommand),
}

/// What to do with a backend.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum BackendCommand {
    /// Add a backend to a version; kept over restarts of the agent.
    #[command(
        after_help = "Examples:\n  grayxdp backend add web v2 10.0.2.11:8080\n  grayxdp backend add web v2 10.0.2.11:8080 --weight 3"
    )]
    Add {
        /// The service.
        service: String,
        /// What the backend serves.
        version: VersionArg,
        /// Its address, as it would stand in the config.
        address: String,
        /// Its share among its version's backends, 1 to 1000.
        #[arg(long, value_name = "N", default_value_t = BACKEND_WEIGHT_DEFAULT,
              value_parser = clap::value_parser!(u32).range(1..=i64::from(BACKEND_WEIGHT_MAX)))]
        weight: u32,
    },
    /// Remove a backend; the connections that it has stay.
    #[command(after_help = "Example:\n  grayxdp backend remove web 10.0.2.11:8080")]
    Remove {
        /// The service.
        service: String,
        /// The backend.
        address: String,
    },
}

/// Which traffic is pinned.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
#[group(required = true, multiple = false)]
pub struct RuleArgs {
    /// From clients of this network, or with this one address.
    #[arg(long, value_name = "CIDR")]
    pub source: Option<Network>,
    /// With this DSCP value, 0 to 63.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=63))]
    pub dscp: Option<u8>,
}

/// One of the two versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum VersionArg {
    /// The running version.
    V1,
    /// The canary.
    V2,
}

impl VersionArg {
    /// `v1` or `v2`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
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
    use crate::cli::wait::Target;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("grayxdp").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    /// All of `--help`, as people see it on a wide terminal. `INSTA_UPDATE=always cargo test` writes it anew.
    #[test]
    fn help_reads_like_this() {
        fn collect(command: &mut clap::Command, path: &str, text: &mut String) {
            let path = format!("{path}{}", command.get_name());
            text.push_str(&format!("$ {path} --help\n{}\n", command.render_long_help()));
            command.get_subcommands_mut().filter(|each| each.get_name() != "help").for_each(|each| {
                collect(each, &format!("{path} "), text);
            });
        }
        let mut text = String::new();
        // Whoever has the variable set sees its value.
        let command = Cli::command().term_width(100).mut_arg("socket", |socket| socket.hide_env_values(true));
        let mut command = command;
        command.build();
        collect(&mut command, "", &mut text);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn lines_mean_these_commands() {
        let web = || ServiceArgs { service: Some("web".to_owned()) };
        let set_weight = |service: Option<&str>, hundredths, shard: Option<&str>| ClientCommand::SetWeight {
            service: service.map(str::to_owned),
            percent: Weight::from_hundredths(hundredths).expect("in range"),
            shard: shard.map(str::to_owned),
        };
        let status = |service: Option<&str>, wait, timeout_s: Option<u64>| {
            let timeout = timeout_s.map(std::time::Duration::from_secs);
            ClientCommand::Status(StatusArgs { service: service.map(str::to_owned), wait, timeout })
        };
        let pin = |source: Option<&str>, dscp| ClientCommand::Pin {
            service: web().service,
            rule: RuleArgs { source: source.map(|text| text.parse().expect("a network")), dscp },
            to: VersionArg::V2,
        };
        for (line, expected) in [
            ("status", status(None, None, None)),
            ("status web", status(Some("web"), None, None)),
            ("status web --wait", status(Some("web"), Some(Target::Promoted), None)),
            ("status --wait web --timeout 90s", status(Some("web"), Some(Target::Promoted), Some(90))),
            ("status --wait=done --timeout 2h", status(None, Some(Target::Done), Some(7200))),
            ("approve web", ClientCommand::Approve(web())),
            (
                "history web -f --limit 5",
                ClientCommand::History(HistoryArgs { service: web().service, limit: 5, follow: true }),
            ),
            ("start web", ClientCommand::Start(web())),
            ("rollback", ClientCommand::Rollback(ServiceArgs { service: None })),
            ("set-weight web 12.5", set_weight(Some("web"), 1250, None)),
            ("set-weight 0.01", set_weight(None, 1, None)),
            ("set-weight 100%", set_weight(None, 10_000, None)),
            ("set-weight web 20 --shard internal", set_weight(Some("web"), 2000, Some("internal"))),
            ("pin web --source 198.51.100.0/24 --to v2", pin(Some("198.51.100.0/24"), None)),
            ("pin web --dscp 46 --to v2", pin(None, Some(46))),
            ("drain 10.0.1.10:8080", ClientCommand::Drain { service: None, address: "10.0.1.10:8080".to_owned() }),
            ("drain web 10.0.1.10", ClientCommand::Drain { service: web().service, address: "10.0.1.10".to_owned() }),
            (
                "backend add web v2 10.0.2.11:8080 --weight 3",
                ClientCommand::Backend(BackendCommand::Add {
                    service: "web".to_owned(),
                    version: VersionArg::V2,
                    address: "10.0.2.11:8080".to_owned(),
                    weight: 3,
                }),
            ),
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
            ("pin web --to v2", "required"),
            ("pin web --source 198.51.100.0/24", "--to"),
            ("pin web --source 198.51.100.1/24 --to v2", "198.51.100.0/24"),
            ("pin web --source 198.51.100.0/24 --dscp 1 --to v2", "cannot be used with"),
            ("pin web --dscp 64 --to v2", "0..=63"),
            ("pin web --dscp 1 --to v3", "v1, v2"),
            ("backend add web v2 10.0.2.11:8080 --weight 0", "1..=1000"),
            ("backend", "add"),
            ("status -o yaml", "json"),
            ("status --timeout 5s", "--wait"),
            ("status --wait=never", "promoted"),
            ("status --wait --timeout 5", "time unit"),
            ("history --limit 10001", "10000"),
            ("stat", "status"),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }
}

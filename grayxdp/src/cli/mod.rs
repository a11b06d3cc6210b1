//! The command line. Apart from `run` and `detach` it knows the control socket and config files only.

pub mod args;
mod check;
pub(crate) mod client;
mod curve;
mod error;
mod explain;
mod flows;
mod history;
mod plan;
mod print;
mod remote;
mod simulate;
pub(crate) mod status;
mod trace;
pub(crate) mod wait;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _};
use serde_json::json;

pub use self::args::Cli;
use self::{
    args::{Command, DETACH_BPFFS_DEFAULT, Output},
    client::{Client, ClientError},
    error::CliError,
};
use crate::{agent, kernel};

/// Reads the command line, and does what it says.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match Cli::try_parse_from(&arguments) {
        Ok(cli) => run(cli),
        Err(error) => {
            // Nobody is there to read it.
            drop(error.print());
            // Help and version that were asked for are no errors.
            ExitCode::from(if error.use_stderr() { wait::usage_exit_code(&arguments) } else { 0 })
        }
    }
}

/// Does what the command line says; prints results and errors.
pub fn run(cli: Cli) -> ExitCode {
    let output = cli.global.output;
    let is_check = matches!(cli.command, Command::Check { .. });
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error, output, is_check);
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    let args::Global { socket, output } = cli.global;
    match cli.command {
        Command::Run { config } => Ok(agent::run(check::load(&config)?)?),
        Command::Check { file } => check::execute(&file, output),
        Command::Plan { file, service, rate, base_error } => {
            let traffic = rate.map(|rate| plan::Expected { rate, base_error });
            plan::execute(&file, service.as_deref(), traffic, output)
        }
        Command::Simulate { file, service } => simulate::execute(&file, service.as_deref(), output),
        Command::Detach { bpffs } => detach(socket, bpffs.as_deref(), output),
        Command::Client(command) => remote::execute(socket, output, command),
        Command::Completions { shell } => completions(shell),
    }
}

/// By the agent that holds the pins, else by ourselves: the kernel side refuses while somebody holds them.
fn detach(socket: PathBuf, bpffs: Option<&Path>, output: Output) -> Result<(), CliError> {
    let interfaces = match Client::new(socket).detach(bpffs) {
        Ok(interfaces) => interfaces,
        Err(error) if may_detach_alone(&error, bpffs) => {
            kernel::detach(bpffs.unwrap_or(Path::new(DETACH_BPFFS_DEFAULT)))?.interfaces
        }
        Err(error) => return Err(error.into()),
    };
    match output {
        Output::Json => print::json(&json!({ "interfaces": interfaces })),
        Output::Text if interfaces.is_empty() => print::text(
            "nothing was attached; if `agent.bpffs` of the config is another folder, give it: `grayxdp detach --bpffs DIR`\n",
        ),
        Output::Text => print::text(&format!("detached from {}\n", interfaces.join(", "))),
    }
}

/// Without an agent; or where the one at the socket says that the pins that are meant are not its own.
fn may_detach_alone(error: &ClientError, bpffs: Option<&Path>) -> bool {
    error.is_unreachable() || (bpffs.is_some() && error.code() == "refused")
}

fn completions(shell: clap_complete::Shell) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "grayxdp", &mut script);
    print::text(&String::from_utf8_lossy(&script))
}

/// One message for people; with `-o json` one object for programs too.
fn complain(error: &CliError, output: Output, is_check: bool) {
    let object = match error {
        CliError::Config(errors) if is_check => json!({ "ok": false, "errors": errors.errors() }),
        _ => error.to_json(),
    };
    if output == Output::Json {
        // The complaint follows all the same, and so does the exit code.
        drop(print::json(&object));
    }
    match error {
        CliError::Config(errors) => print::complaint(&print::config_errors(errors)),
        _ => print::complaint(&format!("grayxdp: {error}\n")),
    }
}

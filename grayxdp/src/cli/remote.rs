//! Commands that the agent carries out: asks, and prints the answer.

use std::path::PathBuf;

use super::{
    args::{ClientCommand, Output, ServiceArgs},
    client::{Answer, Client, Command},
    error::CliError,
    print, status,
};
use crate::agent::shapes::Verb;

pub(super) fn execute(socket: PathBuf, output: Output, command: ClientCommand) -> Result<(), CliError> {
    let client = Client::new(socket);
    let (service, command) = match command {
        ClientCommand::Status(ServiceArgs { service }) => {
            let Answer { json, body } = client.status(service.as_deref())?;
            return print_as(output, &json, || status::status(&body));
        }
        ClientCommand::SetWeight { service, percent } => (service, Command::SetWeight(percent)),
        ClientCommand::Start(ServiceArgs { service }) => (service, Command::Verb(Verb::Start)),
        ClientCommand::Freeze(ServiceArgs { service }) => (service, Command::Verb(Verb::Freeze)),
        ClientCommand::Resume(ServiceArgs { service }) => (service, Command::Verb(Verb::Resume)),
        ClientCommand::Rollback(ServiceArgs { service }) => (service, Command::Verb(Verb::Rollback)),
        ClientCommand::Promote(ServiceArgs { service }) => (service, Command::Verb(Verb::Promote)),
    };
    let done = client.command(service.as_deref(), command)?;
    print_as(output, &done.after.json, || status::change(&done.before, &done.after.body))
}

/// The agent's JSON as it came, or a text made from it.
fn print_as(output: Output, json: &str, text: impl FnOnce() -> String) -> Result<(), CliError> {
    match output {
        Output::Json => print::text(&format!("{}\n", json.trim_end())),
        Output::Text => print::text(&text()),
    }
}

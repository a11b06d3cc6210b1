//! Commands that the agent carries out: asks, and prints the answer.

use std::path::PathBuf;

use serde_json::json;

use super::{
    args::{BackendCommand, ClientCommand, Output, RuleArgs, ServiceArgs},
    client::{Answer, Client, Command},
    error::CliError,
    explain, flows, history, print, status, trace,
    wait::{self, StatusArgs},
};
use crate::agent::shapes::Verb;

pub(super) fn execute(socket: PathBuf, output: Output, command: ClientCommand) -> Result<(), CliError> {
    let client = Client::new(socket);
    let (service, command, sentence) = match command {
        ClientCommand::Status(StatusArgs { service, wait: Some(target), timeout }) => {
            return wait::execute(&client, output, service.as_deref(), target, timeout);
        }
        ClientCommand::Status(StatusArgs { service, wait: None, .. }) => {
            let Answer { json, body } = client.status(service.as_deref())?;
            return print_as(output, &json, || status::status(&body));
        }
        ClientCommand::History(arguments) => return history::execute(&client, output, arguments),
        ClientCommand::Pins(ServiceArgs { service }) => {
            let Answer { json, body } = client.pins(service.as_deref())?;
            return print_as(output, &json, || status::pins(&body));
        }
        ClientCommand::Flows(arguments) => return flows::execute(&client, output, arguments),
        ClientCommand::Trace(arguments) => return trace::execute(&client, output, arguments),
        ClientCommand::Explain(arguments) => return explain::execute(&client, output, arguments),
        ClientCommand::SetWeight { service, percent, shard } => (service, Command::SetWeight(percent, shard), None),
        ClientCommand::Start(ServiceArgs { service }) => (service, Command::Verb(Verb::Start), None),
        ClientCommand::Freeze(ServiceArgs { service }) => (service, Command::Verb(Verb::Freeze), None),
        ClientCommand::Resume(ServiceArgs { service }) => (service, Command::Verb(Verb::Resume), None),
        ClientCommand::Approve(ServiceArgs { service }) => (service, Command::Verb(Verb::Approve), None),
        ClientCommand::Rollback(ServiceArgs { service }) => (service, Command::Verb(Verb::Rollback), None),
        ClientCommand::Promote(ServiceArgs { service }) => (service, Command::Verb(Verb::Promote), None),
        ClientCommand::Pin { service, rule, to } => {
            let RuleArgs { source, dscp } = &rule;
            let body =
                json!({ "source": source.map(|network| network.to_string()), "dscp": dscp, "version": to.name() });
            let sentence = format!("{} goes to {}", said(&rule), to.name());
            (service, Command::Change("pin", body), Some(sentence))
        }
        ClientCommand::Unpin { service, rule } => {
            let RuleArgs { source, dscp } = &rule;
            let body = json!({ "source": source.map(|network| network.to_string()), "dscp": dscp });
            let sentence = format!("{} goes by the weight again, or by another pin", said(&rule));
            (service, Command::Change("unpin", body), Some(sentence))
        }
        ClientCommand::Drain { service, address } => {
            let sentence = format!("{address} gets no new connections");
            (service, Command::Change("drain", json!({ "address": address })), Some(sentence))
        }
        ClientCommand::Undrain { service, address } => {
            let sentence = format!("{address} gets new connections again");
            (service, Command::Change("undrain", json!({ "address": address })), Some(sentence))
        }
        ClientCommand::Backend(BackendCommand::Add { service, version, address, weight }) => {
            let sentence = format!("{address} serves {} with weight {weight}", version.name());
            let body = json!({ "version": version.name(), "address": address, "weight": weight });
            (Some(service), Command::Change("add-backend", body), Some(sentence))
        }
        ClientCommand::Backend(BackendCommand::Remove { service, address }) => {
            let sentence = format!("{address} is removed; connections that it has stay");
            (Some(service), Command::Change("remove-backend", json!({ "address": address })), Some(sentence))
        }
    };
    let done = client.command(service.as_deref(), command)?;
    print_as(output, &done.after.json, || match sentence {
        Some(sentence) => status::changed(&done.after.body, &sentence),
        None => status::change(&done.before, &done.after.body),
    })
}

/// Which traffic, in words.
fn said(RuleArgs { source, dscp }: &RuleArgs) -> String {
    match (source, dscp) {
        (Some(network), _) => format!("traffic from {network}"),
        (None, Some(value)) => format!("traffic with DSCP {value}"),
        // The command line has one of the two.
        (None, None) => "nothing".to_owned(),
    }
}

/// The agent's JSON as it came, or a text made from it.
fn print_as(output: Output, json: &str, text: impl FnOnce() -> String) -> Result<(), CliError> {
    match output {
        Output::Json => print::text(&format!("{}\n", json.trim_end())),
        Output::Text => print::text(&text()),
    }
}

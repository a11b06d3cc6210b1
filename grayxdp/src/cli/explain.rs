//! `explain`: where a client goes and why, as text.

use std::{fmt::Write as _, net::SocketAddr};

use clap::Args;

use super::{
    args::Output,
    client::{Answer, Client},
    error::CliError,
    print,
};
use crate::agent::shapes::{ExplainQuery, ExplainStatus, ExplainedCandidate, ExplainedFlow};

/// Arguments of `explain`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct ExplainArgs {
    /// The service; may be left out when there is just one.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// The client, as address:port; an IPv6 address in brackets.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub from: SocketAddr,
    /// DSCP value of its packets, 0 to 63.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=63))]
    pub dscp: Option<u8>,
    /// The service's port that it comes by: `canary` or a number; the service's own if left out.
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
}

pub(super) fn execute(client: &Client, output: Output, arguments: ExplainArgs) -> Result<(), CliError> {
    let ExplainArgs { service, from, dscp, port } = arguments;
    let query = ExplainQuery { client: from, dscp, port };
    let Answer { json, body } = client.look::<ExplainStatus>(service.as_deref(), "explain", &query)?;
    match output {
        Output::Json => print::text(&format!("{}\n", json.trim_end())),
        Output::Text => print::text(&text(&body)),
    }
}

fn text(status: &ExplainStatus) -> String {
    let mut text = format!("{}  {} {}, client {}", status.service, status.protocol, status.vip, status.client);
    if status.dscp != 0 {
        let _ = write!(text, ", DSCP {}", status.dscp);
    }
    text.push('\n');
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<9} {value}");
    };
    line("answer", answer(status));
    line("because", status.because.clone());
    line("flow", status.flow.as_ref().map_or("none".to_owned(), flow));
    line("pin", status.pin.as_ref().map_or("none".to_owned(), |pin| format!("by {}, to {}", pin.by, pin.version)));
    line("hash", format!("{}, of key {}", status.hash, status.key));
    line("shard", shard(status));
    let weight = status.weight.map_or("unreadable".to_owned(), |weight| format!("{weight:.2} % to v2"));
    line("weight", format!("{weight}; the client's place is {:.3} %", status.position));
    for each in &status.candidates {
        line(&format!("if {}", each.version), candidate(each));
    }
    text
}

fn answer(status: &ExplainStatus) -> String {
    let what = if status.protocol == "udp" { "datagram" } else { "SYN" };
    match (&status.version, status.backend) {
        (Some(version), Some(backend)) => format!("the next {what} goes to {version}, {backend}"),
        _ if status.fate == "dropped" => format!("the next {what} is dropped"),
        _ => format!("the next {what} goes to either version, as is drawn"),
    }
}

fn flow(flow: &ExplainedFlow) -> String {
    let ExplainedFlow { version, backend, state, idle_s, .. } = flow;
    let mut text = format!("{state} on {version}, {backend}, idle for {idle_s:.0} s");
    if flow.expired {
        text.push_str(", longer than it may be");
    }
    if flow.severed {
        text.push_str(", to be reset with its next packet");
    }
    text
}

fn shard(status: &ExplainStatus) -> String {
    let shard = &status.shard;
    let number = shard.number.to_string();
    if number == shard.name {
        format!("{number} of {}", shard.of)
    } else {
        format!("`{}` ({number} of {})", shard.name, shard.of)
    }
}

fn candidate(candidate: &ExplainedCandidate) -> String {
    let Some(backend) = candidate.backend else { return "no live backend".to_owned() };
    let state = candidate.state.as_deref().unwrap_or("unknown");
    let mut text = format!("{backend}, {state}; slot {} of {}", candidate.slot, candidate.slots);
    match &candidate.next_hop {
        Some(hop) => {
            let _ = write!(text, "; next hop {} by {}, MTU {}", hop.mac, hop.interface, hop.mtu);
        }
        None => text.push_str("; next hop asked of the kernel for each packet"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_reads_from_the_answer_down() {
        let mut status: ExplainStatus = serde_json::from_str(
            r#"{"service":"web","protocol":"tcp","vip":"203.0.113.10:80","client":"198.51.100.7:40000","dscp":10,
            "fate":"new","because":"shard `3` has weight 30.00 %, and the client's place, 25.00 %, is under it",
            "version":"v2","backend":"10.0.2.10:8080","flow":null,"pin":null,"hash":"3fffffff40000000","key":"source-ip",
            "shard":{"number":3,"name":"3","of":16},"weight":30.0,"position":25.0,"candidates":[
            {"version":"v1","slot":5,"slots":4093,"backend":"10.0.1.10:8080","state":"down","next_hop":null},
            {"version":"v2","slot":6,"slots":4093,"backend":"10.0.2.10:8080","state":"live",
            "next_hop":{"interface":"eth1","mac":"02:00:00:00:00:0b","mtu":1500}}]}"#,
        )
        .expect("an explanation");
        let expected = "\
web  tcp 203.0.113.10:80, client 198.51.100.7:40000, DSCP 10
  answer    the next SYN goes to v2, 10.0.2.10:8080
  because   shard `3` has weight 30.00 %, and the client's place, 25.00 %, is under it
  flow      none
  pin       none
  hash      3fffffff40000000, of key source-ip
  shard     3 of 16
  weight    30.00 % to v2; the client's place is 25.000 %
  if v1     10.0.1.10:8080, down; slot 5 of 4093; next hop asked of the kernel for each packet
  if v2     10.0.2.10:8080, live; slot 6 of 4093; next hop 02:00:00:00:00:0b by eth1, MTU 1500
";
        assert_eq!(text(&status), expected);
        (status.version, status.backend, status.fate, status.protocol) =
            (None, None, "dropped".to_owned(), "udp".to_owned());
        status.shard.name = "office".to_owned();
        status.candidates[0].backend = None;
        let text = text(&status);
        for line in [
            "  answer    the next datagram is dropped",
            "  shard     `office` (3 of 16)",
            "  if v1     no live backend",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert_eq!(
            flow(&ExplainedFlow {
                version: "v1".to_owned(),
                backend: "10.0.1.10:8080".parse().expect("an address"),
                state: "established".to_owned(),
                idle_s: 3.2,
                expired: true,
                severed: true,
            }),
            "established on v1, 10.0.1.10:8080, idle for 3 s, longer than it may be, to be reset with its next packet"
        );
    }
}

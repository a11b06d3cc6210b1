//! `flows`: the flow table as text.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

use super::{
    args::{Output, VersionArg},
    client::{Answer, Client},
    error::CliError,
    print::{self, Align},
};
use crate::agent::shapes::{FLOWS_LIMIT_DEFAULT, FLOWS_LIMIT_MAX, FlowStatus, FlowsQuery, FlowsStatus};

/// Arguments of `flows`.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct FlowsArgs {
    /// Only of this service; of all if left out.
    pub service: Option<String>,
    /// Only on backends of this version.
    #[arg(long, value_name = "VERSION")]
    pub version: Option<VersionArg>,
    /// Only on this backend: an address, or address and port.
    #[arg(long, value_name = "ADDRESS")]
    pub backend: Option<String>,
    /// Only in this state.
    #[arg(long, value_name = "STATE")]
    pub state: Option<StateArg>,
    /// Only of this client: an address, or address and port.
    #[arg(long, value_name = "ADDRESS")]
    pub client: Option<String>,
    /// List at most so many, 0 to 10000; all are counted.
    #[arg(long, value_name = "N", default_value_t = FLOWS_LIMIT_DEFAULT,
          value_parser = clap::value_parser!(u32).range(0..=i64::from(FLOWS_LIMIT_MAX)))]
    pub limit: u32,
}

/// Where a flow is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum StateArg {
    /// The backend has not answered yet.
    HalfOpen,
    /// TCP: both sides were seen.
    Established,
    /// TCP: reset, or closed from both sides.
    Closing,
    /// UDP: both sides were seen.
    Udp,
}

impl StateArg {
    const fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half-open",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Udp => "udp",
        }
    }
}

pub(super) fn execute(client: &Client, output: Output, arguments: FlowsArgs) -> Result<(), CliError> {
    let query = FlowsQuery {
        service: arguments.service,
        version: arguments.version.map(|version| version.name().to_owned()),
        backend: arguments.backend,
        state: arguments.state.map(|state| state.name().to_owned()),
        client: arguments.client,
        limit: Some(arguments.limit),
    };
    let Answer { json, body } = client.flows(&query)?;
    match output {
        Output::Json => print::text(&format!("{}\n", json.trim_end())),
        Output::Text => print::text(&text(&body)),
    }
}

fn text(status: &FlowsStatus) -> String {
    let mut text = String::new();
    if !status.flows.is_empty() {
        text.push_str(&table(&status.flows));
        text.push('\n');
    }
    let totals = status.totals;
    text.push_str(&format!(
        "{} flow{}: {} half-open, {} established, {} closing, {} udp\n",
        totals.all,
        if totals.all == 1 { "" } else { "s" },
        totals.half_open,
        totals.established,
        totals.closing,
        totals.udp
    ));
    let hidden = totals.all.saturating_sub(u64::try_from(status.flows.len()).unwrap_or(u64::MAX));
    if hidden > 0 {
        text.push_str(&format!("{hidden} of them are not listed; `--limit` lists more, filters pick fewer\n"));
    }
    if status.clients_unknown > 0 {
        let count = status.clients_unknown;
        text.push_str(&format!("{count} more have a client that the table does not tell (IPv6 outside full-nat)\n"));
    }
    text
}

fn table(flows: &[FlowStatus]) -> String {
    let has_sources = flows.iter().any(|flow| flow.source.is_some());
    let mut columns = vec![
        ("CLIENT", Align::Left),
        ("SERVICE", Align::Left),
        ("VERSION", Align::Left),
        ("BACKEND", Align::Left),
        ("STATE", Align::Left),
        ("IDLE", Align::Right),
    ];
    if has_sources {
        columns.push(("SOURCE", Align::Left));
    }
    let unknown = |address: Option<SocketAddr>| address.map_or("?".to_owned(), |address| address.to_string());
    let row = |flow: &FlowStatus| {
        let mut service = flow.service.clone().unwrap_or_else(|| "(left)".to_owned());
        if flow.by_canary_port {
            service.push_str(" (canary port)");
        }
        let mut state = flow.state.clone();
        if flow.severed {
            state.push_str(", severed");
        }
        let idle = format!("{:.0} s", flow.idle_s);
        let mut cells =
            vec![unknown(flow.client), service, flow.version.clone(), flow.backend.to_string(), state, idle];
        if has_sources {
            cells.push(flow.source.map_or(String::new(), |source| source.to_string()));
        }
        cells
    };
    print::table(&columns, &flows.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_a_table_and_a_sum() {
        let mut status: FlowsStatus = serde_json::from_str(
            r#"{"flows":[
            {"service":"web","by_canary_port":true,"client":"198.51.100.3:40003","version":"v2",
             "backend":"10.0.2.10:8080","state":"established","idle_s":3.2,"severed":true,"source":null},
            {"service":null,"by_canary_port":false,"client":null,"version":"v1",
             "backend":"[fd00::1]:80","state":"udp","idle_s":0.0,"severed":false,"source":"10.0.0.9:2000"}],
            "totals":{"half-open":1,"established":2,"closing":3,"udp":4,"all":10},"clients_unknown":5}"#,
        )
        .expect("flows");
        let expected = "\
CLIENT              SERVICE            VERSION  BACKEND         STATE                 IDLE  SOURCE
198.51.100.3:40003  web (canary port)  v2       10.0.2.10:8080  established, severed   3 s
?                   (left)             v1       [fd00::1]:80    udp                    0 s  10.0.0.9:2000

10 flows: 1 half-open, 2 established, 3 closing, 4 udp
8 of them are not listed; `--limit` lists more, filters pick fewer
5 more have a client that the table does not tell (IPv6 outside full-nat)
";
        assert_eq!(text(&status), expected);
        status = FlowsStatus::default();
        assert_eq!(text(&status), "0 flows: 0 half-open, 0 established, 0 closing, 0 udp\n");
    }
}

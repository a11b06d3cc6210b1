//! Listing flows: which are picked, how they are shown, how many there are. Decides nothing.
//!
//! The table is read in parts, each in its own turn of the loop, so that a large one does not keep the loop from anything
//! else for longer than some milliseconds.

use std::net::{IpAddr, SocketAddr};

use grayxdp_common::{ids::Version, layout::FlowState};

use super::{
    releases::CommandError,
    shapes::{FLOWS_LIMIT_DEFAULT, FLOWS_LIMIT_MAX, FlowStatus, FlowTotals, FlowsQuery, FlowsStatus, rounded},
};
use crate::{config::ServiceConfig, decide::pin::version_from_name, kernel::Flow};

/// Buckets that are read in one turn of the loop.
pub(super) const BUCKETS_PER_TURN: u32 = 4096;

/// Which flows are picked, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    service: Option<usize>,
    version: Option<Version>,
    backend: Option<Peer>,
    state: Option<FlowState>,
    client: Option<Peer>,
}

/// An address, or an address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Peer {
    address: IpAddr,
    port: Option<u16>,
}

impl Peer {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(both) = text.parse::<SocketAddr>() {
            return Some(Self { address: both.ip(), port: Some(both.port()) });
        }
        text.parse().ok().map(|address| Self { address, port: None })
    }

    fn is(self, other: SocketAddr) -> bool {
        self.address == other.ip() && self.port.is_none_or(|port| port == other.port())
    }
}

/// How many flows are to be listed.
pub(super) fn limit(query: &FlowsQuery) -> Result<usize, CommandError> {
    let limit = query.limit.unwrap_or(FLOWS_LIMIT_DEFAULT);
    if limit > FLOWS_LIMIT_MAX {
        return Err(wrong(
            query,
            format!("a limit of {limit} is too high: at most {FLOWS_LIMIT_MAX} flows are listed"),
        ));
    }
    Ok(usize::try_from(limit).unwrap_or(0))
}

impl Filter {
    /// From what was asked; `service` is its index, where one was named.
    pub(super) fn new(query: &FlowsQuery, service: Option<usize>) -> Result<Self, CommandError> {
        let version = query.version.as_deref().map(|name| {
            version_from_name(name).ok_or_else(|| wrong(query, format!("`{name}` is no version: write v1 or v2")))
        });
        let state = query.state.as_deref().map(|name| {
            let state = FlowState::ALL.into_iter().find(|state| state.name() == name);
            let names = FlowState::ALL.map(FlowState::name).join(", ");
            state.ok_or_else(|| wrong(query, format!("`{name}` is no state of a flow: those are {names}")))
        });
        let peer = |text: &Option<String>| {
            let parse = |text: &String| {
                let expected = "write an address, or an address and a port, such as 198.51.100.7:40000";
                Peer::parse(text).ok_or_else(|| wrong(query, format!("`{text}` is no address: {expected}")))
            };
            text.as_ref().map(parse).transpose()
        };
        Ok(Self {
            service,
            version: version.transpose()?,
            backend: peer(&query.backend)?,
            state: state.transpose()?,
            client: peer(&query.client)?,
        })
    }

    /// Whether a flow is picked, its client apart.
    fn picks(&self, flow: &Flow) -> bool {
        self.service.is_none_or(|service| flow.service == Some(service))
            && self.version.is_none_or(|version| flow.version == version)
            && self.state.is_none_or(|state| flow.state == state)
            && self.backend.is_none_or(|backend| backend.is(flow.backend))
    }
}

fn wrong(query: &FlowsQuery, wrong: String) -> CommandError {
    CommandError::Wrong { service: query.service.clone().unwrap_or_else(|| "flows".to_owned()), wrong }
}

/// Adds a flow to the answer, if it is picked.
pub(super) fn take(status: &mut FlowsStatus, filter: &Filter, limit: usize, flow: &Flow, services: &[ServiceConfig]) {
    if !filter.picks(flow) {
        return;
    }
    match (filter.client, flow.client) {
        (Some(_), None) => {
            status.clients_unknown += 1;
            return;
        }
        (Some(wanted), Some(client)) if !wanted.is(client) => return,
        _ => {}
    }
    let totals = &mut status.totals;
    totals.all += 1;
    *match flow.state {
        FlowState::HalfOpen => &mut totals.half_open,
        FlowState::Established => &mut totals.established,
        FlowState::Closing => &mut totals.closing,
        FlowState::Udp => &mut totals.udp,
    } += 1;
    if status.flows.len() < limit {
        status.flows.push(shown(flow, services));
    }
}

/// Adds what another part of the table has.
pub(super) fn add(sum: &mut FlowsStatus, part: FlowsStatus) {
    let FlowTotals { half_open, established, closing, udp, all } = part.totals;
    sum.totals.half_open += half_open;
    sum.totals.established += established;
    sum.totals.closing += closing;
    sum.totals.udp += udp;
    sum.totals.all += all;
    sum.clients_unknown += part.clients_unknown;
    sum.flows.extend(part.flows);
}

fn shown(flow: &Flow, services: &[ServiceConfig]) -> FlowStatus {
    FlowStatus {
        service: flow.service.and_then(|index| services.get(index)).map(|service| service.name.clone()),
        by_canary_port: flow.by_canary_port,
        client: flow.client,
        version: flow.version.name().to_owned(),
        backend: flow.backend,
        state: flow.state.name().to_owned(),
        idle_s: rounded(flow.idle.as_secs_f64()),
        severed: flow.severed,
        source: flow.source,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agent::fake_kernel;

    /// The n-th flow of a table for tests: two services, both versions, all states, every tenth without a client.
    pub(in crate::agent) fn flow(nth: u16) -> Flow {
        let client = SocketAddr::from(([198, 51, 100, u8::try_from(nth % 250).expect("small")], 40_000 + nth));
        Flow {
            service: Some(usize::from(nth % 2)),
            by_canary_port: false,
            version: if nth.is_multiple_of(3) { Version::V2 } else { Version::V1 },
            backend: SocketAddr::from(([10, 0, 1, 10], 8080 + nth % 3)),
            state: FlowState::ALL[usize::from(nth % 4)],
            idle: Duration::from_secs(nth.into()),
            severed: false,
            source: None,
            client: (nth % 10 != 9).then_some(client),
        }
    }

    fn listed(query: &FlowsQuery, service: Option<usize>) -> FlowsStatus {
        let services = fake_kernel::config(std::path::Path::new("/tmp")).services;
        let (filter, limit) = (Filter::new(query, service).expect("sound"), limit(query).expect("sound"));
        let mut sum = FlowsStatus::default();
        for part in [0..50, 50..120] {
            let mut status = FlowsStatus::default();
            let room = limit - sum.flows.len();
            part.for_each(|nth| take(&mut status, &filter, room, &flow(nth), &services));
            add(&mut sum, status);
        }
        sum
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn each_filter_picks_its_own_and_all_are_counted_beyond_the_limit() {
        let all = || FlowsQuery::default();
        for (query, service, count, shown) in [
            (all(), None, 120, 100),
            (FlowsQuery { limit: Some(7), ..all() }, None, 120, 7),
            (FlowsQuery { limit: Some(0), ..all() }, None, 120, 0),
            (all(), Some(1), 60, 60),
            (FlowsQuery { version: text("v2"), ..all() }, None, 40, 40),
            (FlowsQuery { version: text("v2"), ..all() }, Some(1), 20, 20),
            (FlowsQuery { state: text("closing"), ..all() }, None, 30, 30),
            (FlowsQuery { backend: text("10.0.1.10"), ..all() }, None, 120, 100),
            (FlowsQuery { backend: text("10.0.1.10:8081"), ..all() }, None, 40, 40),
            (FlowsQuery { backend: text("10.0.1.11"), ..all() }, None, 0, 0),
            (FlowsQuery { client: text("198.51.100.7"), ..all() }, None, 1, 1),
            (FlowsQuery { client: text("198.51.100.7:40007"), ..all() }, None, 1, 1),
            (FlowsQuery { client: text("198.51.100.7:40008"), ..all() }, None, 0, 0),
        ] {
            let status = listed(&query, service);
            assert_eq!((status.totals.all, status.flows.len()), (count, shown), "{query:?}");
            let FlowTotals { half_open, established, closing, udp, all } = status.totals;
            assert_eq!(half_open + established + closing + udp, all);
            assert_eq!(status.clients_unknown, if query.client.is_some() { 12 } else { 0 });
        }
    }

    #[test]
    fn a_flow_shows_all_that_is_known() {
        let query = FlowsQuery { client: text("198.51.100.3"), ..FlowsQuery::default() };
        let json = serde_json::to_string(&listed(&query, None)).expect("JSON");
        let expected = r#"{"flows":[{"service":"dns","by_canary_port":false,"client":"198.51.100.3:40003","version":"v2","backend":"10.0.1.10:8080","state":"udp","idle_s":3.0,"severed":false,"source":null}],"totals":{"half-open":0,"established":0,"closing":0,"udp":1,"all":1},"clients_unknown":12}"#;
        assert_eq!(json, expected);
    }

    #[test]
    fn what_cannot_be_picked_by_is_said() {
        for (query, part) in [
            (FlowsQuery { version: text("v3"), ..FlowsQuery::default() }, "v1 or v2"),
            (FlowsQuery { state: text("open"), ..FlowsQuery::default() }, "half-open, established, closing, udp"),
            (FlowsQuery { client: text("web"), ..FlowsQuery::default() }, "198.51.100.7:40000"),
            (FlowsQuery { backend: text(":80"), ..FlowsQuery::default() }, "`:80` is no address"),
        ] {
            let said = Filter::new(&query, None).expect_err("wrong").to_string();
            assert!(said.contains(part), "{said}");
        }
        let query = FlowsQuery { limit: Some(10_001), ..FlowsQuery::default() };
        assert!(limit(&query).expect_err("wrong").to_string().contains("10000"));
    }
}

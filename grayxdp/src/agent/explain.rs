//! From an explanation to what the API answers. Decides nothing.

use std::net::SocketAddr;

use grayxdp_common::{
    ids::{BackendId, Version},
    layout::{BACKEND_RETIRED, BackendEntry, FLOW_SEVER, FLOW_TICK_SHIFT},
    verdict::Verdict,
};

use super::{
    releases::CommandError,
    shapes::{
        ExplainQuery, ExplainStatus, ExplainedCandidate, ExplainedFlow, ExplainedHop, ExplainedPin, ExplainedShard,
        rounded,
    },
};
use crate::{
    config::ServiceConfig,
    decide::{
        explain::{Candidate, Explanation, Fate, KnownFlow, PinKind},
        pin::DSCP_MAX,
    },
    percent::percent,
};

/// A question that has been checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    pub(super) client: SocketAddr,
    pub(super) by_canary_port: bool,
    pub(super) dscp: u8,
}

/// Checks a question about a service.
pub(super) fn check(service: &ServiceConfig, query: &ExplainQuery) -> Result<Asked, CommandError> {
    let wrong = |wrong: String| CommandError::Wrong { service: service.name.clone(), wrong };
    let dscp = query.dscp.unwrap_or(0);
    if dscp > DSCP_MAX {
        return Err(wrong(format!("{dscp} is no DSCP value: those are 0 to {DSCP_MAX}")));
    }
    if query.client.is_ipv4() != service.vip.is_ipv4() {
        let (vip, client) = (service.vip, query.client);
        return Err(wrong(format!("{client} cannot be a client of {vip}: give a client of the same address family")));
    }
    let by_canary_port = match (query.port.as_deref(), service.canary_port) {
        (None, _) => false,
        (Some("canary"), Some(_)) => true,
        (Some(port), _) if port == service.port.to_string() => false,
        (Some(port), Some(canary)) if port == canary.to_string() => true,
        (Some(port), canary) => {
            let canary =
                canary.map_or("it has no canary port".to_owned(), |canary| format!("its canary port is {canary}"));
            return Err(wrong(format!("it is not met on port `{port}`: its port is {}, {canary}", service.port)));
        }
    };
    Ok(Asked { client: query.client, by_canary_port, dscp })
}

/// The answer.
pub(super) fn status(
    service: &ServiceConfig,
    asked: Asked,
    found: &Explanation,
    name: impl Fn(u32) -> Option<String>,
) -> ExplainStatus {
    let chosen = match found.fate {
        Fate::Flow(_) => found.flow.map(|flow| flow.backend),
        Fate::Chosen(version, _) => found.candidate(version).backend.map(|(_, entry)| entry),
        Fate::Drawn | Fate::Dropped(_) => None,
    };
    let fate = match found.fate {
        Fate::Flow(_) => "flow",
        Fate::Chosen(..) => "new",
        Fate::Drawn => "drawn",
        Fate::Dropped(_) => "dropped",
    };
    let port = if asked.by_canary_port { service.canary_port.unwrap_or(service.port) } else { service.port };
    ExplainStatus {
        service: service.name.clone(),
        protocol: service.protocol.name().to_owned(),
        vip: SocketAddr::new(service.vip, port),
        client: asked.client,
        dscp: asked.dscp,
        fate: fate.to_owned(),
        because: because(service, found),
        version: chosen.map(|entry| entry.serves().name().to_owned()),
        backend: chosen.map(|entry| address_of(&entry)),
        flow: found.flow.as_ref().map(flow),
        pin: found
            .pin
            .map(|(kind, version)| ExplainedPin { by: pin_name(kind).to_owned(), version: version.name().to_owned() }),
        hash: format!("{:016x}", found.hash.0),
        key: service.key.name().to_owned(),
        shard: shard(service, found),
        weight: found.threshold.and_then(|threshold| threshold.weight()).map(percent),
        position: rounded(position(found)),
        candidates: Version::ALL
            .into_iter()
            .map(|version| candidate(version, found.candidate(version), found.are_hops_fresh, &name))
            .collect(),
    }
}

fn because(service: &ServiceConfig, found: &Explanation) -> String {
    match found.fate {
        Fate::Flow(_) => "its flow lives, and stays where it began".to_owned(),
        Fate::Dropped(Verdict::DroppedLandAttack) => "the client is the service's own address and port".to_owned(),
        Fate::Dropped(Verdict::DroppedMartianSource) => "no host can have the client's address".to_owned(),
        Fate::Dropped(_) => "no live backend is there for it".to_owned(),
        Fate::Drawn => "shards are at random: the version is drawn anew for each connection".to_owned(),
        Fate::Chosen(version, _) => chosen_because(service, version, found),
    }
}

fn chosen_because(service: &ServiceConfig, version: Version, found: &Explanation) -> String {
    let mut text = match (found.pin, found.threshold.and_then(|threshold| threshold.weight())) {
        (Some((kind, version)), _) => {
            let what = match kind {
                PinKind::Port => "the canary port",
                PinKind::Source => "the client's network",
                PinKind::Dscp => "the DSCP value",
            };
            format!("{what} is pinned to {}", version.name())
        }
        (None, weight) => {
            let weight = weight.map_or("unknown".to_owned(), |weight| format!("{weight} %"));
            let relation = if version == Version::V2 { "under" } else { "not under" };
            let position = position(found);
            let shard = shard(service, found).name;
            format!("shard `{shard}` has weight {weight}, and the client's place, {position:.2} %, is {relation} it")
        }
    };
    if found.is_fuse_blown && found.pin.is_none() {
        text = "the fuse has blown: until it is armed again, nobody goes to v2 by weight".to_owned();
    }
    if let Some((_, entry)) = found.candidate(version).backend
        && entry.serves() != version
    {
        text.push_str(&format!("; {} has no live backend, so the other version takes it", version.name()));
    }
    text
}

/// On the scale of weights, in percent.
fn position(found: &Explanation) -> f64 {
    f64::from(found.hash.fraction()) / 2_f64.powi(32) * 100.0
}

fn shard(service: &ServiceConfig, found: &Explanation) -> ExplainedShard {
    let (shard, of) = found.shard;
    let index = usize::try_from(shard.0).unwrap_or(usize::MAX);
    ExplainedShard { number: shard.0, name: service.shards().name(index).into_owned(), of }
}

fn flow(flow: &KnownFlow) -> ExplainedFlow {
    let idle = std::time::Duration::from_nanos(u64::from(flow.idle_ticks) << FLOW_TICK_SHIFT);
    ExplainedFlow {
        version: flow.backend.serves().name().to_owned(),
        backend: address_of(&flow.backend),
        state: flow.seen.state().name().to_owned(),
        idle_s: rounded(idle.as_secs_f64()),
        expired: flow.is_expired,
        severed: flow.seen.kind & FLOW_SEVER != 0,
    }
}

fn candidate(
    version: Version,
    candidate: &Candidate,
    are_hops_fresh: bool,
    name: impl Fn(u32) -> Option<String>,
) -> ExplainedCandidate {
    let entry = candidate.backend.map(|(_, entry): (BackendId, BackendEntry)| entry);
    ExplainedCandidate {
        version: version.name().to_owned(),
        slot: candidate.slot,
        slots: candidate.slots,
        backend: entry.as_ref().map(address_of),
        state: entry.as_ref().map(|entry| state(version, entry)),
        next_hop: entry.filter(|_| are_hops_fresh).and_then(|entry| hop(&entry, name)),
    }
}

fn state(version: Version, entry: &BackendEntry) -> String {
    let state = match entry {
        _ if entry.is_down() => "down",
        _ if entry.flags & BACKEND_RETIRED != 0 => "removed",
        _ => "live",
    };
    let own = entry.serves();
    if own == version { state.to_owned() } else { format!("{state} ({})", own.name()) }
}

fn hop(entry: &BackendEntry, name: impl Fn(u32) -> Option<String>) -> Option<ExplainedHop> {
    let hop = entry.next_hop;
    if hop.interface == 0 {
        return None;
    }
    let mac: Vec<String> =
        hop.destination_mac.iter().flat_map(|word| word.to_ne_bytes()).map(|byte| format!("{byte:02x}")).collect();
    let interface = name(hop.interface).unwrap_or_else(|| format!("interface {}", hop.interface));
    Some(ExplainedHop { interface, mac: mac.join(":"), mtu: hop.mtu })
}

const fn pin_name(kind: PinKind) -> &'static str {
    match kind {
        PinKind::Port => "port",
        PinKind::Source => "source",
        PinKind::Dscp => "dscp",
    }
}

fn address_of(entry: &BackendEntry) -> SocketAddr {
    SocketAddr::new(entry.endpoint.address.into(), entry.endpoint.port.to_host())
}

#[cfg(test)]
pub(super) mod tests {
    use grayxdp_common::{
        ids::{Be16, ShardId},
        layout::{Endpoint, FlowSeen, NextHop, SEEN_PACKET},
        weight::{KeyHash, Weight},
    };

    use super::*;
    use crate::agent::fake_kernel;

    fn backend(last: u8, version: Version) -> (BackendId, BackendEntry) {
        let address = std::net::IpAddr::from([10, 0, last, 10]).into();
        let mac = [[2, 0], [0, 0], [0, 0x0b]].map(u16::from_ne_bytes);
        let entry = BackendEntry {
            endpoint: Endpoint::new(address, Be16::new(8080), 6),
            version: version as u8,
            next_hop: NextHop { destination_mac: mac, mtu: 1500, interface: 4, ..NextHop::default() },
            ..BackendEntry::default()
        };
        (BackendId::from_raw(last.into()).expect("not zero"), entry)
    }

    /// A client whose place is 25 % in shard 3, which has weight 30 %. With DSCP 46 it is pinned to v1.
    pub(in crate::agent) fn explanation(by_canary_port: bool, client: SocketAddr, dscp: u8) -> Explanation {
        let (v1, v2) = (backend(1, Version::V1), backend(2, Version::V2));
        let candidate = |slot, backend| Candidate { slot, slots: 4093, backend: Some(backend) };
        let pin = match (by_canary_port, dscp) {
            (true, _) => Some((PinKind::Port, Version::V2)),
            (false, 46) => Some((PinKind::Dscp, Version::V1)),
            _ => None,
        };
        let version = pin.map_or(Version::V2, |(_, version)| version);
        let id = if version == Version::V1 { v1.0 } else { v2.0 };
        let seen = FlowSeen { client: SEEN_PACKET, ..FlowSeen::default() };
        let flow = KnownFlow { id: v1.0, backend: v1.1, seen, idle_ticks: 7, is_expired: false };
        Explanation {
            fate: if client.port() == 1 { Fate::Flow(v1.0) } else { Fate::Chosen(version, id) },
            flow: (client.port() == 1).then_some(flow),
            pin,
            hash: KeyHash(0x3fff_ffff_4000_0000),
            shard: (ShardId(3), 16),
            threshold: Weight::from_hundredths(3000).map(Weight::threshold),
            is_drawn: false,
            candidates: [candidate(5, v1), candidate(6, v2)],
            is_fuse_blown: false,
            are_hops_fresh: true,
        }
    }

    fn web() -> ServiceConfig {
        fake_kernel::config(std::path::Path::new("/tmp")).services.remove(0)
    }

    fn query(client: &str, dscp: Option<u8>, port: Option<&str>) -> ExplainQuery {
        ExplainQuery { client: client.parse().expect("an address"), dscp, port: port.map(str::to_owned) }
    }

    #[test]
    fn a_question_that_makes_no_sense_says_what_would() {
        let service = ServiceConfig { canary_port: Some(8081), ..web() };
        for (query, by_canary_port) in [
            (query("198.51.100.7:1", None, None), false),
            (query("198.51.100.7:1", Some(63), Some("80")), false),
            (query("198.51.100.7:1", None, Some("canary")), true),
            (query("198.51.100.7:1", None, Some("8081")), true),
        ] {
            assert_eq!(check(&service, &query).expect("sound").by_canary_port, by_canary_port, "{query:?}");
        }
        for (query, part) in [
            (query("198.51.100.7:1", Some(64), None), "0 to 63"),
            (query("[2001:db8::1]:1", None, None), "same address family"),
            (query("198.51.100.7:1", None, Some("81")), "its port is 80, its canary port is 8081"),
        ] {
            let said = check(&service, &query).expect_err("wrong").to_string();
            assert!(said.contains(part), "{said}");
        }
        let said = check(&web(), &query("198.51.100.7:1", None, Some("canary"))).expect_err("wrong").to_string();
        assert!(said.contains("it has no canary port"), "{said}");
    }

    #[test]
    fn the_sentence_says_what_decided() {
        let service = web();
        for (client, by_canary_port, dscp, version, sentence) in [
            (
                "198.51.100.7:9",
                false,
                0,
                "v2",
                "shard `3` has weight 30.00 %, and the client's place, 25.00 %, is under it",
            ),
            ("198.51.100.7:9", false, 46, "v1", "the DSCP value is pinned to v1"),
            ("198.51.100.7:9", true, 46, "v2", "the canary port is pinned to v2"),
            ("198.51.100.7:1", false, 0, "v1", "its flow lives, and stays where it began"),
        ] {
            let asked = Asked { client: client.parse().expect("an address"), by_canary_port, dscp };
            let status = status(&service, asked, &explanation(by_canary_port, asked.client, dscp), |_| None);
            assert_eq!((status.version.as_deref(), status.because.as_str()), (Some(version), sentence));
        }
        let asked = Asked { client: "198.51.100.7:9".parse().expect("an address"), by_canary_port: false, dscp: 0 };
        let mut found = explanation(false, asked.client, 0);
        found.candidates[1].backend = found.candidates[0].backend;
        let status = status(&service, asked, &found, |index| Some(format!("eth{index}")));
        assert!(
            status.because.ends_with("v2 has no live backend, so the other version takes it"),
            "{}",
            status.because
        );
        assert_eq!((status.version.as_deref(), status.candidates[1].state.as_deref()), (Some("v1"), Some("live (v1)")));
    }
}

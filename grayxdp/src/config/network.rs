//! What must hold between services: names and endpoints are unique, so that every packet has one owner.

mod sources;

use std::{collections::HashMap, net::SocketAddr, ops::Range};

use grayxdp_common::limits::{BACKENDS_MAX, NETWORKS_MAX, SERVICES_MAX};
use toml::Spanned;

use super::{
    Protocol,
    problems::Problems,
    service::{RawBackend, RawService},
};
use crate::{cidr::family, decide::shards::Sharding};

/// Notes what is wrong between services, and between a service and its backends.
pub(super) fn check(problems: &Problems<'_>, services: &[RawService]) {
    check_counts(problems, services);
    check_names(problems, services);
    sources::check(problems, services);
    let vips = check_vips(problems, services);
    let mut seen: HashMap<(SocketAddr, Protocol), String> = HashMap::new();
    for service in services {
        for (version, backend) in backends(service) {
            check_family(problems, service, backend);
            let Some(protocol) = service.protocol.as_ref().map(|protocol| *protocol.get_ref()) else {
                continue;
            };
            let address = *backend.address.get_ref();
            let owner = format!("{version} of {}", title(service));
            if let Some(vip) = vips.get(&(address, protocol)) {
                problems.note(
                    backend.address.span(),
                    format!("backend {address} of {owner} is where clients meet {vip}"),
                    "write the address of the backend itself; a service can't be another one's backend",
                );
            }
            if let Some(other) = seen.insert((address, protocol), owner.clone()) {
                let wheres =
                    if other == owner { format!("twice in {owner}") } else { format!("in {owner} and in {other}") };
                problems.note(
                    backend.address.span(),
                    format!("backend {address} ({}) is {wheres}: a reply must name one version", protocol.name()),
                    "remove one of the two, or give the server a second port or address",
                );
            }
        }
    }
}

fn check_counts(problems: &Problems<'_>, services: &[RawService]) {
    let services_max = usize::try_from(SERVICES_MAX).unwrap_or(usize::MAX);
    if let Some(service) = services.get(services_max) {
        problems.note(
            span(service),
            format!("{} services: at most {SERVICES_MAX} are possible", services.len()),
            "move some to another host",
        );
    }
    check_networks(problems, services);
    // Number 0 means none.
    let backends_max = usize::try_from(BACKENDS_MAX - 1).unwrap_or(usize::MAX);
    let all: Vec<_> = services.iter().flat_map(backends).collect();
    if let Some((_, backend)) = all.get(backends_max) {
        problems.note(
            backend.address.span(),
            format!("{} backends over all services: at most {backends_max} are possible", all.len()),
            "move some services to another host",
        );
    }
}

fn check_networks(problems: &Problems<'_>, services: &[RawService]) {
    let mut sum = 0;
    for service in services {
        let ranges = match &service.sharding {
            Some((Sharding::Range { named, .. }, _)) => named.iter().map(|shard| shard.networks.len()).sum(),
            _ => 0,
        };
        let pins = service.pins.as_ref().map_or(0, Vec::len);
        sum += ranges + pins;
        if sum > NETWORKS_MAX as usize {
            problems.note(
                span(service),
                format!("{sum} networks in shards and pins of all services: at most {NETWORKS_MAX} are possible"),
                "name larger networks; a range that begins and ends at round addresses takes fewer of them",
            );
            return;
        }
    }
}

fn check_names(problems: &Problems<'_>, services: &[RawService]) {
    let mut seen = std::collections::HashSet::new();
    for name in services.iter().filter_map(|service| service.name.as_ref()) {
        if !seen.insert(name.get_ref()) {
            problems.note(
                name.span(),
                format!("two services are named `{}`", name.get_ref()),
                "give each service a name of its own",
            );
        }
    }
}

/// Where clients meet services, with their titles: canary ports too.
fn check_vips(problems: &Problems<'_>, services: &[RawService]) -> HashMap<(SocketAddr, Protocol), String> {
    let mut seen = HashMap::new();
    for service in services {
        let (Some(vip), Some(port), Some(protocol)) = (&service.vip, &service.port, &service.protocol) else {
            continue;
        };
        let endpoint = SocketAddr::new(*vip.get_ref(), *port.get_ref());
        if let Some(other) = seen.insert((endpoint, *protocol.get_ref()), title(service)) {
            problems.note(
                vip.span(),
                format!("{} and {other} are both at {endpoint} ({})", title(service), protocol.get_ref().name()),
                "give one of them another `vip` or `port`",
            );
        }
    }
    for service in services {
        let (Some(vip), Some(protocol), Some(port)) = (&service.vip, &service.protocol, &service.canary_port) else {
            continue;
        };
        let Some(canary) = port.get_ref() else { continue };
        let endpoint = SocketAddr::new(*vip.get_ref(), *canary);
        let owner = format!("the canary port of {}", title(service));
        if let Some(other) = seen.insert((endpoint, *protocol.get_ref()), owner) {
            problems.note(
                port.span(),
                format!(
                    "`canary_port` of {}: expected a port that nobody else has, but {other} is at {endpoint} ({})",
                    title(service),
                    protocol.get_ref().name()
                ),
                "write another port of the VIP",
            );
        }
    }
    seen
}

fn check_family(problems: &Problems<'_>, service: &RawService, backend: &RawBackend) {
    let (Some(vip), Some(mode)) = (service.vip.as_ref().map(Spanned::get_ref), &service.mode) else {
        return;
    };
    let address = backend.address.get_ref();
    if !mode.mode.kind().carries(*vip, address.ip()) {
        let help = if vip.is_ipv4() {
            "write an address of the VIP's family; only mode `ipip` carries IPv4 to IPv6 backends"
        } else {
            "write an address of the VIP's family; translation between the two is not possible"
        };
        problems.note(
            backend.address.span(),
            format!(
                "backend {address} is {}, but the VIP of {} is {}",
                family(address.ip()),
                title(service),
                family(*vip)
            ),
            help,
        );
    }
}

fn backends(service: &RawService) -> impl Iterator<Item = (&'static str, &RawBackend)> {
    let v1 = service.v1.backends.iter().map(|backend| ("v1", backend));
    v1.chain(service.v2.backends.iter().map(|backend| ("v2", backend)))
}

pub(super) fn title(service: &RawService) -> String {
    match &service.name {
        Some(name) => format!("service `{}`", name.get_ref()),
        None => "a service".to_owned(),
    }
}

fn span(service: &RawService) -> Range<usize> {
    service.name.as_ref().map_or(0..0, Spanned::span)
}

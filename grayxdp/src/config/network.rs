//! What must hold between services: names and endpoints are unique, so that every packet has one owner.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use grayxdp_common::limits::{BACKENDS_MAX, SERVICES_MAX};
use toml::Spanned;

use super::{
    Protocol,
    problems::Problems,
    service::{RawBackend, RawService},
};

/// Notes what is wrong between services, and between a service and its backends.
pub(super) fn check(problems: &Problems<'_>, services: &[RawService]) {
    check_counts(problems, services);
    check_names(problems, services);
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

/// Where clients meet services, with their titles.
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
    seen
}

fn check_family(problems: &Problems<'_>, service: &RawService, backend: &RawBackend) {
    let Some(vip) = service.vip.as_ref().map(Spanned::get_ref) else {
        return;
    };
    let address = backend.address.get_ref();
    if vip.is_ipv4() != address.is_ipv4() {
        problems.note(
            backend.address.span(),
            format!(
                "backend {address} is {}, but the VIP of {} is {}",
                family(address.ip()),
                title(service),
                family(*vip)
            ),
            "write an address of the VIP's family; translation between the two is not possible",
        );
    }
}

const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn backends(service: &RawService) -> impl Iterator<Item = (&'static str, &RawBackend)> {
    let v1 = service.v1.backends.iter().map(|backend| ("v1", backend));
    v1.chain(service.v2.backends.iter().map(|backend| ("v2", backend)))
}

fn title(service: &RawService) -> String {
    match &service.name {
        Some(name) => format!("service `{}`", name.get_ref()),
        None => "a service".to_owned(),
    }
}

fn span(service: &RawService) -> Range<usize> {
    service.name.as_ref().map_or(0..0, Spanned::span)
}

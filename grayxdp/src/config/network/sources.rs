//! Source addresses of `full-nat` between services: ports of an address are handed out to one list of addresses.

use std::{collections::HashSet, net::IpAddr};

use grayxdp_common::limits::SOURCE_ADDRESSES_MAX;

use super::title;
use crate::config::{Mode, problems::Problems, service::RawService};

pub(super) fn check(problems: &Problems<'_>, services: &[RawService]) {
    let mut lists: Vec<(&[IpAddr], String)> = Vec::new();
    for service in services {
        let Some(mode) = &service.mode else { continue };
        let Mode::FullNat { source_addresses } = &mode.mode else { continue };
        let span = || mode.sources_span.clone();
        if lists.iter().any(|(list, _)| *list == source_addresses.as_slice()) {
            continue;
        }
        if let Some((address, other)) = lists.iter().find_map(|(list, other)| {
            source_addresses.iter().find(|address| list.contains(address)).map(|address| (address, other))
        }) {
            problems.note(
                span(),
                format!(
                    "`source_addresses` of {}: expected the list of {other} or none of its addresses, but {address} is in both",
                    title(service)
                ),
                "write the same addresses in the same order, or others: the ports of an address belong to one list",
            );
            continue;
        }
        lists.push((source_addresses, title(service)));
        let all: HashSet<_> = lists.iter().flat_map(|(list, _)| list.iter()).collect();
        if all.len() > SOURCE_ADDRESSES_MAX as usize {
            problems.note(
                span(),
                format!(
                    "{} source addresses over all services: at most {SOURCE_ADDRESSES_MAX} are possible",
                    all.len()
                ),
                "let services share a list: write the same addresses in the same order",
            );
        }
    }
}

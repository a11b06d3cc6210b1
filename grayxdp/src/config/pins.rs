//! The `pins` of a service: traffic that goes to one version whatever the weight.

use std::{collections::HashSet, net::IpAddr};

use grayxdp_common::ids::Version;

use super::{
    section::{Item, Section},
    value,
};
use crate::{
    cidr::family,
    decide::pin::{DSCP_MAX, Pin, PinRule},
};

/// `None` after a problem was noted.
pub(super) fn read(section: &Section<'_>, vip: Option<IpAddr>) -> Option<Vec<Pin>> {
    let Some(item) = section.optional_item("pins") else {
        return Some(Vec::new());
    };
    let elements = item.list("pin", "pins = [{ source = \"198.51.100.0/24\", version = \"v2\" }]")?;
    let mut seen = HashSet::new();
    let read = |element: &Item<'_>| {
        let pin = pin(element, vip)?;
        if !seen.insert(pin.rule) {
            element.note(
                format!("{}: a pin for {} is already in the list", element.what(), pin.rule),
                "remove one of the two",
            );
        }
        Some(pin)
    };
    let pins: Vec<_> = elements.iter().map(read).collect();
    pins.into_iter().collect()
}

/// `None` after a problem was noted.
fn pin(item: &Item<'_>, vip: Option<IpAddr>) -> Option<Pin> {
    let section = item.section(&["source", "dscp", "version"]);
    let versions = Version::ALL.map(|version| (version.name(), version));
    let version = section.required("version", "\"v2\"", |value| value::choice(value, &versions));
    let source = section.optional_item("source").map(|item| item.read(value::network));
    let dscp =
        section.optional_item("dscp").map(|item| item.read(|value| value::integer(value, 0..=u32::from(DSCP_MAX))));
    let rule = match (source, dscp) {
        (Some(source), None) => {
            let source = source?;
            let (span, network) = (source.span(), source.into_inner());
            if let Some(vip) = vip.filter(|vip| vip.is_ipv4() != network.is_ipv4()) {
                item.note_at(
                    span,
                    format!(
                        "{}: no client comes from {network}, for it is {} and the VIP {}",
                        item.what(),
                        family(network.address()),
                        family(vip)
                    ),
                    "write a network of the VIP's family",
                );
            }
            PinRule::Source(network)
        }
        (None, Some(dscp)) => PinRule::Dscp(u8::try_from(dscp?.into_inner()).unwrap_or(DSCP_MAX)),
        (both, _) => {
            let found = if both.is_some() { "has both" } else { "has neither" };
            item.note(
                format!("{}: expected either `source` or `dscp`, but it {found}", item.what()),
                "write `source = \"198.51.100.0/24\"` for clients of a network, or `dscp = 46` for marked packets",
            );
            return None;
        }
    };
    Some(Pin { rule, version: version?.into_inner() })
}

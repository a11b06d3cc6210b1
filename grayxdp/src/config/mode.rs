//! How packets of a service reach its backends: `mode`, and the keys that only some modes have.

use std::{net::IpAddr, ops::Range};

use grayxdp_common::limits::SOURCE_ADDRESSES_PER_SERVICE_MAX;
use toml::{Spanned, de::DeValue};

use super::{
    ModeKind,
    section::{Item, Section},
    value,
};
use crate::cidr::{Network, family};

/// Of the service's keys; each belongs to one mode.
pub(super) const KEYS: [(&str, ModeKind); 3] =
    [("source_addresses", ModeKind::FullNat), ("outer_source", ModeKind::Ipip), ("outer_source_v6", ModeKind::Ipip)];

const OUTER_SOURCE_DEFAULT: &str = "172.16.0.0/16";
const OUTER_SOURCE_V6_DEFAULT: &str = "fd00:6774::/64";

/// How packets reach the backends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The destination is rewritten, and replies are rewritten back on their way through this host.
    Nat,
    /// As `Nat`, and the source becomes an address of this host, so that replies find their way back by themselves.
    FullNat {
        /// Addresses of this host and of the backends' family: 1 to 16, each once. Another service has the same list, or
        /// shares none of it.
        source_addresses: Vec<IpAddr>,
    },
    /// Only the MAC addresses are rewritten: backends on the same link that hold the VIP.
    Dsr,
    /// IP in IP, to backends anywhere that hold the VIP.
    Ipip {
        /// The outer source address in front of IPv4 backends: these leading bits, and others of the flow.
        outer_source: Network,
        /// The same in front of IPv6 backends.
        outer_source_v6: Network,
    },
}

impl Mode {
    /// Which one.
    pub const fn kind(&self) -> ModeKind {
        match self {
            Self::Nat => ModeKind::Nat,
            Self::FullNat { .. } => ModeKind::FullNat,
            Self::Dsr => ModeKind::Dsr,
            Self::Ipip { .. } => ModeKind::Ipip,
        }
    }

    /// As in the config.
    pub const fn name(&self) -> &'static str {
        self.kind().name()
    }
}

/// A mode as far as it could be read.
pub(super) struct RawMode {
    pub(super) mode: Mode,
    /// Where its source addresses stand.
    pub(super) sources_span: Range<usize>,
}

/// `None` after a problem was noted.
pub(super) fn read(section: &Section<'_>, kind: Option<ModeKind>, vip: Option<IpAddr>) -> Option<RawMode> {
    let kind = kind?;
    for (key, owner) in KEYS.into_iter().filter(|(_, owner)| *owner != kind) {
        if let Some(item) = section.optional_item(key) {
            item.note(
                format!("{} means nothing: the mode is `{}`", item.what(), kind.name()),
                format!("remove it, or write `mode = \"{}\"`", owner.name()),
            );
        }
    }
    let mut sources_span = 0..0;
    let mode = match kind {
        ModeKind::Nat => Mode::Nat,
        ModeKind::Dsr => Mode::Dsr,
        ModeKind::FullNat => {
            let example = "source_addresses = [\"10.0.0.5\"]";
            let help = format!("add `{example}`: addresses of this host that backends send their replies to");
            let item = section.required_item("source_addresses", &help)?;
            sources_span = item.span();
            Mode::FullNat { source_addresses: source_addresses(&item, example, vip)? }
        }
        ModeKind::Ipip => {
            let v4 = outer_source(section, "outer_source", OUTER_SOURCE_DEFAULT);
            let v6 = outer_source(section, "outer_source_v6", OUTER_SOURCE_V6_DEFAULT);
            Mode::Ipip { outer_source: v4?, outer_source_v6: v6? }
        }
    };
    Some(RawMode { mode, sources_span })
}

/// `None` after a problem was noted.
fn source_addresses(item: &Item<'_>, example: &str, vip: Option<IpAddr>) -> Option<Vec<IpAddr>> {
    let elements = item.elements("source address", example)?;
    if elements.len() > SOURCE_ADDRESSES_PER_SERVICE_MAX as usize {
        item.note(
            format!(
                "{} has {} addresses: at most {SOURCE_ADDRESSES_PER_SERVICE_MAX} are possible",
                item.what(),
                elements.len()
            ),
            "remove some: each address is good for as many connections to each backend as there are `source_ports`",
        );
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut complete = true;
    for element in elements {
        let Some(address) = element.read(value::address).map(Spanned::into_inner) else {
            complete = false;
            continue;
        };
        if addresses.contains(&address) {
            element.note(format!("source address {address} is listed twice"), "remove one of the two");
        }
        if vip == Some(address) {
            element.note(
                format!("{}: {address} is the VIP, found where an address of this host is expected", element.what()),
                "write an address that this host itself has, and that backends can reach",
            );
        } else if let Some(vip) = vip.filter(|vip| vip.is_ipv4() != address.is_ipv4()) {
            element.note(
                format!(
                    "{}: expected an address of the backends' family, {}, found {address}, which is {}",
                    element.what(),
                    family(vip),
                    family(address)
                ),
                "write an address that this host has on the way to the backends",
            );
        }
        addresses.push(address);
    }
    complete.then_some(addresses)
}

/// `None` after a problem was noted.
fn outer_source(section: &Section<'_>, key: &str, default: &str) -> Option<Network> {
    let text = DeValue::String(default.into());
    match section.optional_item(key) {
        Some(item) => item.read(|value| value::outer_source(value, key, default)).map(Spanned::into_inner),
        None => value::outer_source(&text, key, default).ok(),
    }
}

//! From netlink messages to plain data. Pure.
//!
//! What a message has beyond what is known here makes a route unfit, a rule one of the others, a link useless: newer
//! kernels may say something with it that matters.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily,
    link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, InfoKind, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo,
        LinkLayerType, LinkMessage,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState as KernelNeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType, RouteVia},
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};

use super::{
    prefix::{Family, Prefix},
    tables::{
        KernelRoute, Link, LinkState, Neighbour, NeighbourKey, NeighbourState, Rules, Scope, TABLE_DEFAULT,
        TABLE_LOCAL, TABLE_MAIN, Way,
    },
};

/// A route that ends sooner is not used: tables are read every [`super::watcher::FULL_PAUSE`], and this is longer.
const ROUTE_LIFE_MIN_TICKS: u32 = 60 * TICKS_PER_S;
/// `USER_HZ`, in which the kernel tells times.
const TICKS_PER_S: u32 = 100;

/// `None` for what is no route of the family: the kernel sends all families where it does not have the one asked for.
pub(super) fn route(message: &RouteMessage, family: Family) -> Option<KernelRoute> {
    let header = &message.header;
    if family_of(header.address_family) != Some(family) || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut destination = family.unspecified();
    let mut metric = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Priority(value) => metric = *value,
            _ => {}
        }
    }
    let is_for_all = header.tos == 0 && header.source_prefix_length == 0;
    Some(KernelRoute {
        table,
        destination: Prefix::new(destination, header.destination_prefix_length),
        scope: if is_for_all { Scope::All } else { Scope::Some },
        metric,
        way: way(message).unwrap_or(Way::Unfit),
    })
}

/// `None` unless the route leads one way, which is Ethernet's.
fn way(message: &RouteMessage) -> Option<Way> {
    let header = &message.header;
    let broken = RouteFlags::Dead | RouteFlags::Linkdown | RouteFlags::Unresolved;
    if header.kind != RouteType::Unicast || header.flags.intersects(broken) {
        return None;
    }
    let (mut ifindex, mut gateway, mut mtu) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(value) => ifindex = Some(*value),
            RouteAttribute::Gateway(address) => gateway = Some(ip(address)?),
            RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            RouteAttribute::Metrics(metrics) => mtu = route_mtu(metrics),
            RouteAttribute::CacheInfo(info) if (1..ROUTE_LIFE_MIN_TICKS).contains(&info.expires) => return None,
            // The sign bit: its time is over.
            RouteAttribute::CacheInfo(info) if info.expires > i32::MAX.unsigned_abs() => return None,
            RouteAttribute::CacheInfo(_)
            | RouteAttribute::Destination(_)
            | RouteAttribute::Preference(_)
            | RouteAttribute::PrefSource(_)
            | RouteAttribute::Priority(_)
            | RouteAttribute::Realm(_)
            | RouteAttribute::Source(_)
            | RouteAttribute::Table(_) => {}
            // Several ways, a tunnel, an object that others may change, or something new.
            _ => return None,
        }
    }
    let ifindex = ifindex?;
    Some(match gateway {
        Some(gateway) => Way::Gateway { ifindex, gateway, mtu },
        None => Way::OnLink { ifindex, mtu },
    })
}

fn route_mtu(metrics: &[RouteMetric]) -> Option<u32> {
    let mtu = |metric: &RouteMetric| match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
        _ => None,
    };
    metrics.iter().find_map(mtu)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn family_of(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::V4),
        AddressFamily::Inet6 => Some(Family::V6),
        _ => None,
    }
}

/// The neighbour and its key; `None` for what is none of IP's.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, Neighbour)> {
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(IpAddr::V4(*found)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => address = Some(IpAddr::V6(*found)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let state = match message.header.state {
        KernelNeighbourState::Reachable
        | KernelNeighbourState::Delay
        | KernelNeighbourState::Probe
        | KernelNeighbourState::Noarp
        | KernelNeighbourState::Permanent => NeighbourState::Valid,
        KernelNeighbourState::Stale => NeighbourState::Stale,
        KernelNeighbourState::Incomplete => NeighbourState::Resolving,
        _ => NeighbourState::Failed,
    };
    family_of(message.header.family)?;
    Some(((message.header.ifindex, address?), Neighbour { state, mac }))
}

/// A device and its index.
pub(super) fn link(message: &LinkMessage) -> (u32, Link) {
    let mut device = Device::default();
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => device.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => device.note_kind(infos),
            LinkAttribute::AfSpecUnspec(families) => device.note_families(families),
            _ => {}
        }
    }
    let header = &message.header;
    let state = match device.mac {
        _ if !header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp) => LinkState::Down,
        Some(mac) if header.link_layer_type == LinkLayerType::Ether && device.tagging == Tagging::None => {
            LinkState::Ethernet { mac }
        }
        _ => LinkState::Unfit,
    };
    (header.index, Link { state, mtu_v4: device.mtu_v4(), mtu_v6: device.mtu_v6() })
}

/// What the attributes of a link say.
#[derive(Debug, Default)]
struct Device {
    mac: Option<[u8; 6]>,
    mtu: u32,
    tagging: Tagging,
    domain: Domain,
    forwarding_v4: i32,
    forwarding_v6: i32,
    mtu_v6: i32,
}

/// What a device adds to the frames of its parent.
#[derive(Debug, Default, PartialEq)]
enum Tagging {
    #[default]
    None,
    Vlan,
}

/// Whose tables route what comes in.
#[derive(Debug, Default, PartialEq)]
enum Domain {
    #[default]
    Main,
    Vrf,
}

impl Device {
    fn note_kind(&mut self, infos: &[LinkInfo]) {
        for info in infos {
            match info {
                LinkInfo::Kind(InfoKind::Vlan) => self.tagging = Tagging::Vlan,
                LinkInfo::Kind(InfoKind::Vrf) | LinkInfo::PortKind(InfoPortKind::Vrf) => self.domain = Domain::Vrf,
                _ => {}
            }
        }
    }

    fn note_families(&mut self, families: &[AfSpecUnspec]) {
        for family in families {
            match family {
                AfSpecUnspec::Inet(settings) => {
                    for setting in settings {
                        if let AfSpecInet::DevConf(conf) = setting {
                            self.forwarding_v4 = conf.forwarding;
                        }
                    }
                }
                AfSpecUnspec::Inet6(settings) => {
                    for setting in settings {
                        if let AfSpecInet6::DevConf(conf) = setting {
                            (self.forwarding_v6, self.mtu_v6) = (conf.forwarding, conf.mtu6);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn mtu_v4(&self) -> Option<u16> {
        let is_forwarded = self.domain == Domain::Main && self.forwarding_v4 != 0;
        is_forwarded.then(|| u16::try_from(self.mtu).unwrap_or(u16::MAX))
    }

    fn mtu_v6(&self) -> Option<u16> {
        let mtu_v6 = u32::try_from(self.mtu_v6).ok().filter(|&mtu| mtu > 0)?;
        let is_forwarded = self.domain == Domain::Main && self.forwarding_v6 != 0;
        is_forwarded.then(|| u16::try_from(self.mtu.min(mtu_v6)).unwrap_or(u16::MAX))
    }
}

/// What all the rules of a family come to.
pub(super) fn rules(messages: &[RuleMessage], family: Family) -> Rules {
    let of_family = || messages.iter().filter(|message| family_of(message.header.family) == Some(family));
    let mut defaults: Vec<(u32, u32)> = of_family().filter_map(default_rule).collect();
    defaults.sort_unstable();
    let (local, main, default) = ((0, TABLE_LOCAL), (32766, TABLE_MAIN), (32767, TABLE_DEFAULT));
    // IPv6 has no rule for the default table.
    let is_default = defaults == [local, main] || defaults == [local, main, default];
    if is_default && of_family().count() == defaults.len() {
        Rules::Plain
    } else if of_family().next().is_some() && of_family().all(is_by_destination) {
        Rules::ByDestination
    } else {
        Rules::Other
    }
}

/// Priority and table of a rule that has nothing else.
fn default_rule(message: &RuleMessage) -> Option<(u32, u32)> {
    let header = &message.header;
    let has_selectors = header.dst_len != 0 || header.src_len != 0 || header.tos != 0;
    if header.action != RuleAction::ToTable || has_selectors || header.flags.contains(RuleFlags::Invert) {
        return None;
    }
    let (mut priority, mut table) = (0, u32::from(header.table));
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Protocol(_) => {}
            // All ones: nothing is suppressed.
            RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            _ => return None,
        }
    }
    Some((priority, table))
}

/// Whether a rule treats all forwarded packets to one destination alike. They have no mark yet when the program sees
/// them, and neither has the request for a backend's route.
fn is_by_destination(message: &RuleMessage) -> bool {
    let header = &message.header;
    let known = message.attributes.iter().all(|attribute| {
        matches!(
            attribute,
            RuleAttribute::Destination(_)
                | RuleAttribute::FwMark(_)
                | RuleAttribute::FwMask(_)
                | RuleAttribute::Goto(_)
                | RuleAttribute::Priority(_)
                | RuleAttribute::Protocol(_)
                | RuleAttribute::SuppressPrefixLen(_)
                | RuleAttribute::Table(_)
                | RuleAttribute::SuppressIfGroup(u32::MAX)
        )
    });
    header.src_len == 0 && header.tos == 0 && known
}

#[cfg(test)]
mod tests;

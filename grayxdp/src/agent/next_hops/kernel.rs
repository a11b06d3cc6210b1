//! Reads the kernel's tables, and has neighbours asked for.

use std::{collections::HashMap, io, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage},
    rule::RuleMessage,
};

use super::{
    freshness::Probe,
    netlink::Requests,
    parse,
    prefix::Family,
    tables::{FamilyTables, KernelRoute, Link, Neighbours, Rules, Tables},
};

/// Routes of one family that are read; a host that has more gets no next hops for it.
const ROUTES_READ_MAX: usize = 16_384;

/// The kernel of one network namespace.
#[derive(Debug)]
pub(super) struct Kernel {
    requests: Requests,
}

impl Kernel {
    /// That of this thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { requests: Requests::open()? })
    }

    /// Everything.
    pub(super) fn tables(&mut self, backends: &[IpAddr], interfaces: &[u32]) -> io::Result<Tables> {
        let links = self.links(interfaces)?;
        let v4 = self.family(Family::V4)?;
        let v6 = self.family(Family::V6)?;
        let backend_routes = self.backend_routes(backends)?;
        // Last, for they change most often.
        let neighbours = self.neighbours()?;
        Ok(Tables { v4, v6, links, neighbours, backend_routes })
    }

    /// The neighbours of all devices.
    pub(super) fn neighbours(&mut self) -> io::Result<Neighbours> {
        let mut neighbours = Neighbours::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = NeighbourMessage::default();
            message.header.family = family;
            let found =
                self.requests.dump(RouteNetlinkMessage::GetNeighbour(message), usize::MAX, |answer| match answer {
                    RouteNetlinkMessage::NewNeighbour(message) => parse::neighbour(&message),
                    _ => None,
                })?;
            neighbours.extend(found.into_iter().flatten().flatten());
        }
        Ok(neighbours)
    }

    /// Makes the kernel ask a neighbour for its address.
    pub(super) fn probe(&mut self, probe: Probe) -> io::Result<()> {
        let (flags, (ifindex, address)) = match probe {
            Probe::Create(key) => (NLM_F_CREATE | NLM_F_EXCL, key),
            Probe::Confirm(key) => (0, key),
        };
        let mut message = NeighbourMessage::default();
        message.header.family = address_family(Family::of(address));
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::None;
        // As if a packet were being sent there, but without a packet that the neighbour would have to refuse.
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(address)));
        self.requests.tell(RouteNetlinkMessage::NewNeighbour(message), flags)
    }

    fn links(&mut self, interfaces: &[u32]) -> io::Result<HashMap<u32, Link>> {
        let mut links = HashMap::new();
        for &ifindex in interfaces {
            let mut message = LinkMessage::default();
            message.header.index = ifindex;
            message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
            let answer = self.requests.ask_one(RouteNetlinkMessage::GetLink(message))?;
            if let Some(RouteNetlinkMessage::NewLink(message)) = answer {
                links.extend([parse::link(&message)]);
            }
        }
        Ok(links)
    }

    fn family(&mut self, family: Family) -> io::Result<FamilyTables> {
        Ok(FamilyTables { rules: self.rules(family)?, routes: self.routes(family)? })
    }

    fn rules(&mut self, family: Family) -> io::Result<Rules> {
        let mut message = RuleMessage::default();
        message.header.family = address_family(family);
        let rules = self.requests.dump(RouteNetlinkMessage::GetRule(message), usize::MAX, |answer| match answer {
            RouteNetlinkMessage::NewRule(message) => Some(message),
            _ => None,
        })?;
        let readable: Option<Vec<RuleMessage>> = rules.and_then(|rules| rules.into_iter().collect());
        Ok(readable.map_or(Rules::Other, |messages| parse::rules(&messages, family)))
    }

    fn routes(&mut self, family: Family) -> io::Result<Option<Vec<KernelRoute>>> {
        let mut message = RouteMessage::default();
        message.header.address_family = address_family(family);
        let routes =
            self.requests.dump(RouteNetlinkMessage::GetRoute(message), ROUTES_READ_MAX, |answer| match answer {
                // What is none of the family's is no route, but can be read.
                RouteNetlinkMessage::NewRoute(message) => Some(parse::route(&message, family)),
                _ => None,
            })?;
        let Some(routes) = routes else { return Ok(None) };
        let readable: Option<Vec<Option<KernelRoute>>> = routes.into_iter().collect();
        Ok(readable.map(|routes| routes.into_iter().flatten().collect()))
    }

    fn backend_routes(&mut self, backends: &[IpAddr]) -> io::Result<HashMap<IpAddr, KernelRoute>> {
        let mut routes = HashMap::new();
        for &backend in backends {
            let family = Family::of(backend);
            let mut message = RouteMessage::default();
            message.header.address_family = address_family(family);
            message.header.destination_prefix_length = family.bits();
            // The route itself, not what this host would make of it for a packet of its own.
            message.header.flags = RouteFlags::FibMatch;
            message.attributes.push(RouteAttribute::Destination(RouteAddress::from(backend)));
            let answer = self.requests.ask_one(RouteNetlinkMessage::GetRoute(message))?;
            if let Some(RouteNetlinkMessage::NewRoute(message)) = answer {
                routes.extend(parse::route(&message, family).map(|route| (backend, route)));
            }
        }
        Ok(routes)
    }
}

const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

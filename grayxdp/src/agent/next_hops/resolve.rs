//! From what the kernel knows to next hops. Pure.
//!
//! One rule stands above all others: an answer may be absent, never wrong. "Wrong" means other than what
//! `bpf_fib_lookup` would say at that moment for some packet to that destination.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use super::{
    NextHop, ROUTES_PER_FAMILY_MAX, Route, Snapshot, longest_prefix,
    prefix::{Family, Prefix},
    tables::{KernelRoute, LinkState, NeighbourKey, Rules, Scope, Tables, Way},
};

/// The answer, and which neighbours it hangs on.
#[derive(Debug)]
pub(super) struct Resolution {
    pub(super) snapshot: Snapshot,
    /// Those that are used, or would be if they were known.
    pub(super) neighbours: BTreeSet<NeighbourKey>,
}

/// The next hops of backends, and those of replies, out of these interfaces.
pub(super) fn resolve(tables: &Tables, backends: &[IpAddr], interfaces: &[u32]) -> Resolution {
    let interfaces = interfaces.iter().copied().collect();
    let mut resolver = Resolver { tables, interfaces, neighbours: BTreeSet::new() };
    let backends = backends.iter().map(|&backend| (backend, resolver.backend(backend))).collect();
    let routes = Family::ALL.into_iter().flat_map(|family| resolver.routes(family)).collect();
    Resolution { snapshot: Snapshot { backends, routes }, neighbours: resolver.neighbours }
}

struct Resolver<'a> {
    tables: &'a Tables,
    interfaces: HashSet<u32>,
    neighbours: BTreeSet<NeighbourKey>,
}

/// A next hop but for the neighbour's MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Exit {
    ifindex: u32,
    neighbour: IpAddr,
    source_mac: [u8; 6],
    mtu: u16,
}

impl Resolver<'_> {
    fn backend(&mut self, backend: IpAddr) -> Option<NextHop> {
        let family = Family::of(backend);
        let route = self.tables.backend_routes.get(&backend)?;
        let tables = self.tables.of(family);
        let routes = tables.routes.as_ref()?;
        let is_settled = self.forwards(family)
            && tables.rules != Rules::Other
            && !routes.iter().any(|other| may_take_some_packets(other, route, backend));
        let exit = is_settled.then(|| self.exit(route, Some(backend)))??;
        self.hop(exit)
    }

    /// Most specific first.
    fn routes(&mut self, family: Family) -> Vec<Route> {
        let tables = self.tables.of(family);
        let Some(routes) = tables.routes.as_ref().filter(|_| tables.rules == Rules::Plain && self.forwards(family))
        else {
            return Vec::new();
        };
        let mut networks = longest_prefix::reduce(routes, |route| self.exit(route, route.destination.sole_address()));
        // Half a table could send packets the wrong way.
        if networks.len() > ROUTES_PER_FAMILY_MAX {
            return Vec::new();
        }
        networks.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        let route = |(prefix, exit): (Prefix, Option<Exit>)| Route {
            destination: prefix.address(),
            prefix_len: prefix.len(),
            hop: exit.and_then(|exit| self.hop(exit)),
        };
        networks.into_iter().map(route).collect()
    }

    /// Whether the kernel forwards packets of the family, wherever they come in: it drops them otherwise.
    fn forwards(&self, family: Family) -> bool {
        let mut links = self.interfaces.iter().filter_map(|ifindex| self.tables.links.get(ifindex));
        links.all(|link| link.state == LinkState::Down || link.mtu(family).is_some())
    }

    /// Where a route leads packets to that destination (`None`: to more than one).
    fn exit(&self, route: &KernelRoute, destination: Option<IpAddr>) -> Option<Exit> {
        let (ifindex, neighbour, route_mtu) = match route.way {
            Way::Gateway { ifindex, gateway, mtu } => (ifindex, gateway, mtu),
            Way::OnLink { ifindex, mtu } => (ifindex, destination?, mtu),
            Way::Unfit => return None,
        };
        let link = self.tables.links.get(&ifindex).filter(|_| self.interfaces.contains(&ifindex))?;
        let LinkState::Ethernet { mac: source_mac } = link.state else { return None };
        let link_mtu = link.mtu(route.destination.family())?;
        // A route's MTU above the device's has no meaning; one below it is the kernel's to deal with.
        let mtu = route_mtu.map_or(link_mtu, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX).min(link_mtu));
        Some(Exit { ifindex, neighbour, source_mac, mtu })
    }

    fn hop(&mut self, exit: Exit) -> Option<NextHop> {
        let key = (exit.ifindex, exit.neighbour);
        self.neighbours.insert(key);
        let destination_mac = self.tables.neighbours.get(&key)?.usable_mac()?;
        Some(NextHop { ifindex: exit.ifindex, destination_mac, source_mac: exit.source_mac, mtu: exit.mtu })
    }
}

/// Whether some packets to the backend, not all, may take this route instead of the one that the kernel told for it.
fn may_take_some_packets(other: &KernelRoute, told: &KernelRoute, backend: IpAddr) -> bool {
    let is_behind = other.table == told.table && other.destination.len() < told.destination.len();
    other.scope == Scope::Some && other.destination.covers(Prefix::host(backend)) && !is_behind
}

#[cfg(test)]
mod tests;

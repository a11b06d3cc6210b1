//! What the loop needs of the data plane: a seam for tests, which steer a kernel of their own.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use grayxdp_common::{
    ids::Version,
    layout::{self, Address, FuseTally},
    limits::ROUTES_MAX,
    verdict::Verdict,
};

use super::{
    insight::Insight,
    next_hops::{NextHop, ROUTES_PER_FAMILY_MAX, Route, Snapshot},
};
use crate::{
    decide::{
        pin::Pin,
        settings::{BackendSetting, BackendState},
        signals::{ServiceSignals, Sight},
        weights::Weights,
    },
    kernel::{
        BackendReading, BackendSetup, Blown, DataPlane, FlowReading, FuseState, KernelError, PinRules, SignalReadings,
        Standing,
    },
};

/// The data plane, as far as releases are concerned. Services are indices into the config.
pub(super) trait Kernel: Insight {
    /// The weights that a former agent left; `None` for a service new to the maps, or whose v2 is another canary now.
    /// They may be of another number of shards than there are now.
    fn pinned_weights(&self, service: usize) -> Option<Weights>;
    /// The weights that the kernel applies now.
    fn weights(&self, service: usize) -> Result<Weights, KernelError>;
    /// Makes the kernel apply these weights; it does when this returns. On an error some shards may have theirs.
    fn set_weights(&mut self, service: usize, weights: &Weights) -> Result<(), KernelError>;
    /// Makes these the service's pins, all of them.
    fn set_pins(&mut self, service: usize, pins: &[Pin]) -> Result<(), KernelError>;
    /// Makes these the service's backends, all of them; one that is left out keeps its flows, and gets no new ones.
    fn set_backends(&mut self, service: usize, backends: &[BackendSetting]) -> Result<(), KernelError>;
    /// Ends v2's open connections and conversations, those of backends that left included. Returns how many there were.
    fn sever(&mut self, service: usize) -> Result<u64, KernelError>;
    /// Removes flows that were idle for too long, and counts the others: see [`DataPlane::flow_readings`].
    fn sweep(&mut self) -> Vec<FlowReading>;
    /// Every address that packets are sent to, those of backends that left and may have flows included.
    fn backend_addresses(&self) -> Vec<IpAddr>;
    /// Makes these the ways to backends and clients, and no others.
    fn set_next_hops(&mut self, hops: &Snapshot) -> Result<(), KernelError>;
    /// See [`DataPlane::lease_hops`].
    fn lease_hops(&mut self, time: Duration);
    /// See [`DataPlane::found_down`].
    fn found_down(&self, service: usize) -> Vec<SocketAddr>;
    /// What was counted of each service since its counters were made; a service of which nothing is counted that could be
    /// judged is left out.
    fn signals(&mut self) -> Result<Vec<&ServiceSignals>, KernelError>;
    /// See [`DataPlane::signals`]: all of it, for metrics.
    fn signal_readings(&mut self) -> &SignalReadings;
    /// See [`DataPlane::fuse`].
    fn fuse(&self, service: usize) -> FuseState;
    /// Services whose fuse has blown and was not armed again, and what was counted when it did.
    fn blown_fuses(&self) -> Vec<(usize, FuseTally)>;
    /// See [`DataPlane::rearm_fuse`].
    fn arm_fuse(&mut self, service: usize) -> Result<(), KernelError>;
    /// See [`DataPlane::backend_readings`].
    fn backend_readings(&self) -> Result<Vec<BackendReading>, KernelError>;
    /// See [`DataPlane::verdict_counts`].
    fn verdict_counts(&self) -> Result<Vec<(Verdict, u64)>, KernelError>;
}

impl Kernel for DataPlane {
    fn pinned_weights(&self, service: usize) -> Option<Weights> {
        self.pinned_weights(service).map(|weights| Weights::of_shards(weights.to_vec()))
    }

    fn weights(&self, service: usize) -> Result<Weights, KernelError> {
        self.weights(service).map(Weights::of_shards)
    }

    fn set_weights(&mut self, service: usize, weights: &Weights) -> Result<(), KernelError> {
        let shards = self.shard_count(service);
        self.set_weights(service, &weights.each(shards).collect::<Vec<_>>())
    }

    fn set_pins(&mut self, service: usize, pins: &[Pin]) -> Result<(), KernelError> {
        self.set_pins(service, PinRules::from(pins))
    }

    fn set_backends(&mut self, service: usize, backends: &[BackendSetting]) -> Result<(), KernelError> {
        let pool = |version: Version| {
            let own = backends.iter().filter(|backend| backend.version == version);
            own.map(BackendSetup::from).collect::<Vec<_>>()
        };
        self.set_backends(service, Version::ALL.map(pool))
    }

    fn sever(&mut self, service: usize) -> Result<u64, KernelError> {
        let backends = self.backends(service).into_iter();
        let v2: Vec<_> = backends.filter(|(_, version, _)| *version == Version::V2).map(|(id, ..)| id).collect();
        Ok(Self::sever(self, &v2))
    }

    fn sweep(&mut self) -> Vec<FlowReading> {
        DataPlane::sweep(self);
        self.flow_readings()
    }

    fn backend_addresses(&self) -> Vec<IpAddr> {
        let services = 0..self.service_count();
        services.flat_map(|service| self.backends(service)).map(|(.., address)| address.ip()).collect()
    }

    fn set_next_hops(&mut self, hops: &Snapshot) -> Result<(), KernelError> {
        let told: HashSet<IpAddr> = hops.backends.iter().map(|(address, _)| *address).collect();
        let unknown = Kernel::backend_addresses(self).into_iter().filter(|address| !told.contains(address));
        let mut ways: Vec<_> = unknown.map(|address| (address, None)).collect();
        ways.extend(hops.backends.iter().map(|(address, hop)| (*address, hop.as_ref().map(next_hop))));
        DataPlane::set_next_hops(self, &ways);
        self.set_routes(&routes(hops))
    }

    fn lease_hops(&mut self, time: Duration) {
        DataPlane::lease_hops(self, time);
    }

    fn found_down(&self, service: usize) -> Vec<SocketAddr> {
        self.found_down(service)
    }

    fn signals(&mut self) -> Result<Vec<&ServiceSignals>, KernelError> {
        let services = DataPlane::signals(self).services.iter();
        // Of datagrams that only come, nothing tells good from bad.
        Ok(services.filter(|signals| signals.sight != Sight::ClientDatagrams).collect())
    }

    fn signal_readings(&mut self) -> &SignalReadings {
        DataPlane::signals(self)
    }

    fn fuse(&self, service: usize) -> FuseState {
        DataPlane::fuse(self, service)
    }

    fn blown_fuses(&self) -> Vec<(usize, FuseTally)> {
        let state = |service: usize| match self.fuse(service) {
            FuseState::Blown(Blown { tally, .. }) => Some((service, tally)),
            FuseState::None | FuseState::Armed => None,
        };
        (0..self.service_count()).filter_map(state).collect()
    }

    fn arm_fuse(&mut self, service: usize) -> Result<(), KernelError> {
        self.rearm_fuse(service)
    }

    fn backend_readings(&self) -> Result<Vec<BackendReading>, KernelError> {
        self.backend_readings()
    }

    fn verdict_counts(&self) -> Result<Vec<(Verdict, u64)>, KernelError> {
        self.verdict_counts()
    }
}

const _: () = assert!(2 * ROUTES_PER_FAMILY_MAX <= ROUTES_MAX as usize, "routes of both families have room");

fn next_hop(hop: &NextHop) -> layout::NextHop {
    let words = |mac: [u8; 6]| {
        let [a, b, c, d, e, f] = mac;
        [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
    };
    layout::NextHop {
        destination_mac: words(hop.destination_mac),
        mtu: hop.mtu,
        source_mac: words(hop.source_mac),
        interface: hop.ifindex,
        ..layout::NextHop::default()
    }
}

/// The routes as the packet program knows them. There, IPv4 addresses lie within the IPv6 ones (as `::ffff:0:0/96`): an
/// IPv6 route around those is left out unless an IPv4 route covers them all before it.
fn routes(hops: &Snapshot) -> Vec<layout::Route> {
    const MAPPED_BITS: u8 = 96;
    let has_default_v4 = hops.routes.iter().any(|route| route.destination.is_ipv4() && route.prefix_len == 0);
    let around_v4 = |route: &Route| {
        let network = Address::from(route.destination);
        let mask = mask(route.prefix_len);
        let mapped = layout::Route { network, mask, ..layout::Route::default() };
        route.destination.is_ipv6() && mapped.covers(&Address::from_v4_wire(0))
    };
    let told = hops.routes.iter().filter(|route| has_default_v4 || !around_v4(route));
    let route = |route: &Route| layout::Route {
        network: route.destination.into(),
        mask: mask(route.prefix_len + if route.destination.is_ipv4() { MAPPED_BITS } else { 0 }),
        next_hop: route.hop.as_ref().map(next_hop).unwrap_or_default(),
    };
    told.map(route).collect()
}

/// A mask of so many leading bits, 0 to 128.
fn mask(bits: u8) -> Address {
    let word = |nth: u32| {
        let bits = u32::from(bits).saturating_sub(nth * 32).min(32);
        u32::MAX.checked_shl(32 - bits).unwrap_or(0).to_be()
    };
    Address::from_v6_wire([0, 1, 2, 3].map(word))
}

impl From<&BackendSetting> for BackendSetup {
    fn from(backend: &BackendSetting) -> Self {
        Self {
            address: backend.address,
            weight: backend.weight,
            standing: match backend.state {
                BackendState::Live => Standing::Serving,
                BackendState::Draining => Standing::Draining,
                BackendState::Down => Standing::Down,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str, hop: Option<u8>) -> Route {
        let network: crate::cidr::Network = text.parse().expect("a network");
        let hop = hop.map(|last| NextHop {
            ifindex: 2,
            destination_mac: [2, 0, 0, 0, 0, last],
            source_mac: [2, 0, 0, 0, 1, 1],
            mtu: 1500,
        });
        Route { destination: network.address(), prefix_len: network.prefix_len(), hop }
    }

    /// The neighbour that packets to an address are sent to, as the packet program finds it.
    fn way(routes: &[layout::Route], text: &str) -> Option<u8> {
        let address = Address::from(text.parse::<IpAddr>().expect("an address"));
        let mut routes = routes.to_vec();
        routes.sort_by_key(|route| std::cmp::Reverse(route.mask.words().map(u32::count_ones).iter().sum::<u32>()));
        let hop = routes.iter().find(|route| route.covers(&address))?.next_hop;
        (hop.interface != 0).then(|| hop.destination_mac[2].to_ne_bytes()[1])
    }

    #[test]
    fn addresses_of_each_family_go_by_routes_of_their_own() {
        let v6 = [route("2001:db8::/32", Some(4)), route("::/0", Some(3))];
        let with = |v4: &[Route]| Snapshot { backends: Vec::new(), routes: [v4, &v6].concat() };
        let all = routes(&with(&[route("10.0.0.0/8", None), route("0.0.0.0/0", Some(1))]));
        for (address, expected) in
            [("198.51.100.7", Some(1)), ("10.1.2.3", None), ("2001:db8::1", Some(4)), ("2001:db9::1", Some(3))]
        {
            assert_eq!(way(&all, address), expected, "{address}");
        }
        // Without an IPv4 default route, IPv4 packets must not take the IPv6 one.
        let few = routes(&with(&[route("10.0.0.0/8", Some(1))]));
        for (address, expected) in [("10.1.2.3", Some(1)), ("198.51.100.7", None), ("2001:db8::1", Some(4))] {
            assert_eq!(way(&few, address), expected, "{address}");
        }
    }

    #[test]
    fn a_next_hop_keeps_the_bytes_of_its_addresses() {
        let told = next_hop(&route("0.0.0.0/0", Some(9)).hop.expect("a next hop"));
        let bytes = |words: [u16; 3]| words.map(u16::to_ne_bytes).concat();
        assert_eq!(
            (bytes(told.destination_mac), bytes(told.source_mac)),
            (vec![2, 0, 0, 0, 0, 9], vec![2, 0, 0, 0, 1, 1])
        );
        assert_eq!((told.interface, told.mtu), (2, 1500));
    }
}

//! From the setup and its numbers to values of the maps. Pure.

use std::net::{IpAddr, SocketAddr};

use grayxdp_common::{
    ids::{BackendId, Be16, ServiceId, Version},
    layout::{
        Address, BackendEntry, Endpoint, KEY_CONNECTION, KEY_SOURCE_IP, METHOD_HASH, METHOD_RANDOM, METHOD_RANGE,
        MODE_DSR, MODE_FULL_NAT, MODE_IPIP, MODE_NAT, NO_SERVICE, NetworkKey, Owner, PIN_NONE, SERVICE_CIDR_PINS,
        SERVICE_DSCP_PINS, SERVICE_PEEK_DNS, SERVICE_PEEK_HTTP1, SERVICE_PEEK_TLS, SERVICE_SIGNALS, ServiceEntry,
    },
};
use siphasher::sip::SipHasher13;

use super::{
    inventory::{Inventory, ServiceSlot},
    setup::{ForwardMode, Network, PinRules, ServiceSetup, Shards, SignalSetup, Standing, idle_ticks},
};
use crate::{
    config::{Key, Observe},
    decide::maglev,
};

/// IP protocol numbers of ICMP and ICMPv6 (RFC 792, RFC 4443).
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where things of a service lie in maps that all services share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// First shard's weight.
    pub(super) shard_first: u32,
    /// First source address, and how many.
    pub(super) sources: (u16, u16),
}

/// The entry of a service's own port.
pub(super) fn service(setup: &ServiceSetup, slot: &ServiceSlot, place: Place) -> ServiceEntry {
    let (outer_v4, outer_v6) = match &setup.mode {
        ForwardMode::Ipip { outer_v4, outer_v6 } => (*outer_v4, *outer_v6),
        _ => (None, None),
    };
    let outer = |network: Option<Network>| {
        network.map_or((Address::NONE, 0), |network| (network.address.into(), u16::from(network.prefix_len)))
    };
    let ((outer_source, outer_prefix_len), (outer_source_v6, outer_prefix_len_v6)) = (outer(outer_v4), outer(outer_v6));
    let number = |id: ServiceId| u16::try_from(id.0).unwrap_or(NO_SERVICE);
    let (pin_flags, dscp_pins) = pins(&setup.pins);
    let fuse = setup.signals.fuse.filter(|_| setup.signals.enabled);
    ServiceEntry {
        endpoint: slot.endpoint,
        mode: match setup.mode {
            ForwardMode::Nat => MODE_NAT,
            ForwardMode::FullNat { .. } => MODE_FULL_NAT,
            ForwardMode::Dsr => MODE_DSR,
            ForwardMode::Ipip { .. } => MODE_IPIP,
        },
        key: match setup.key {
            Key::SourceIp => KEY_SOURCE_IP,
            Key::Connection => KEY_CONNECTION,
        },
        method: match setup.shards {
            Shards::Hash { .. } => METHOD_HASH,
            Shards::Range { .. } => METHOD_RANGE,
            Shards::Random => METHOD_RANDOM,
        },
        pinned: PIN_NONE,
        hash_key: setup.hash_key,
        shard_first: place.shard_first,
        shard_count: setup.shards.count(),
        pools: number(slot.id),
        canary: if setup.canary_port.is_some() { number(slot.id.canary()) } else { NO_SERVICE },
        udp_idle_ticks: idle_ticks(setup.udp_idle),
        flags: pin_flags | signal_flags(setup.signals),
        dscp_pins,
        source_first: place.sources.0,
        source_count: place.sources.1,
        outer_prefix_len,
        outer_prefix_len_v6,
        outer_source,
        outer_source_v6,
        fuse_failures: fuse.map_or(0, |fuse| fuse.failures),
        fuse_window_ticks: fuse.map_or(0, |fuse| idle_ticks(fuse.window).into()),
        reserved: [0; 2],
    }
}

/// What is counted of a service's flows.
fn signal_flags(setup: SignalSetup) -> u16 {
    let peek = match setup.observe {
        Observe::None => 0,
        Observe::Http1 => SERVICE_PEEK_HTTP1,
        Observe::Tls => SERVICE_PEEK_TLS,
        Observe::Dns => SERVICE_PEEK_DNS,
    };
    if setup.enabled { SERVICE_SIGNALS | peek } else { 0 }
}

/// The entry of its canary port, if it has one.
pub(super) fn canary(setup: &ServiceSetup, own: &ServiceEntry) -> Option<ServiceEntry> {
    let port = Be16::new(setup.canary_port?);
    let pinned = Version::V2 as u8 + 1;
    Some(ServiceEntry { endpoint: Endpoint { port, ..own.endpoint }, pinned, canary: NO_SERVICE, ..*own })
}

/// Flags and DSCP sets of a service's pins.
pub(super) fn pins(rules: &PinRules) -> (u16, [u64; 2]) {
    let mut sets = [0; 2];
    for (value, version) in &rules.dscp {
        if let Some(set) = sets.get_mut(*version as usize) {
            *set |= 1 << (value & 63);
        }
    }
    let networks = if rules.networks.is_empty() { 0 } else { SERVICE_CIDR_PINS };
    let dscp = if rules.dscp.is_empty() { 0 } else { SERVICE_DSCP_PINS };
    (networks | dscp, sets)
}

/// A network of a service as a key: prefix length and data.
pub(super) fn network(service: ServiceId, network: Network) -> (u32, NetworkKey) {
    let address = Address::from(network.address);
    (NetworkKey::prefix_len(&address, network.prefix_len), NetworkKey { service: service.0, address })
}

/// Who owns which endpoint; where two would, the first in the list does.
pub(super) fn owners(setup: &[ServiceSetup], inventory: &Inventory) -> Vec<(Endpoint, Owner)> {
    let mut owners = Vec::new();
    for (service, slot) in setup.iter().zip(&inventory.services) {
        owners.push((slot.endpoint, Owner::Service(slot.id)));
        if let Some(port) = service.canary_port {
            owners.push((Endpoint { port: Be16::new(port), ..slot.endpoint }, Owner::Service(slot.id.canary())));
        }
    }
    let passes = |service: u16| {
        let index = inventory.service_index(ServiceId(service.into()));
        index.and_then(|index| setup.get(index)).is_some_and(ServiceSetup::sees_replies)
    };
    // Where replies do not pass, a packet from a backend is none of ours.
    let answering = inventory.entries().filter(|(_, entry)| passes(entry.service));
    owners.extend(answering.map(|(id, entry)| (entry.endpoint, Owner::Backend(id))));
    for slot in &inventory.services {
        let address = slot.endpoint.address;
        let icmp = if address.is_v4() { ICMP } else { ICMP_V6 };
        for protocol in [TCP, UDP, icmp] {
            owners.push((Endpoint::new(address, Be16::new(0), protocol), Owner::Vip(slot.id)));
        }
    }
    owners
}

/// The Maglev tables of v1 and v2; empty for a version without a live backend.
pub(super) fn tables(setup: &ServiceSetup, inventory: &Inventory, service: usize) -> [Vec<u16>; 2] {
    Version::ALL.map(|version| {
        let members = inventory.backends.iter().filter(|slot| {
            slot.service == service && slot.version == version && slot.setup.standing == Standing::Serving
        });
        let pool: Vec<(BackendId, u32, u64)> =
            members.map(|slot| (slot.id, slot.setup.weight, identity(slot.setup.address))).collect();
        maglev::table(&pool, setup.maglev_slots)
    })
}

/// Places a backend in Maglev tables by its address, equally on every host of a fleet.
fn identity(address: SocketAddr) -> u64 {
    SipHasher13::new_with_keys(0, 0).hash(address.to_string().as_bytes())
}

/// Where a backend answers, as people write it.
pub(super) fn address_of(entry: &BackendEntry) -> SocketAddr {
    SocketAddr::new(IpAddr::from(entry.endpoint.address), entry.endpoint.port.to_host())
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use super::*;
    use crate::{
        config::Protocol,
        kernel::{
            inventory::{self, Numbered},
            setup::{BackendSetup, WhenEmpty},
        },
    };

    fn backend(text: &str, standing: Standing) -> BackendSetup {
        BackendSetup { address: text.parse().expect("an address"), weight: 1, standing }
    }

    fn setup(mode: ForwardMode) -> ServiceSetup {
        ServiceSetup {
            vip: [203, 0, 113, 10].into(),
            port: 80,
            protocol: Protocol::Tcp,
            canary_port: Some(8080),
            mode,
            key: Key::Connection,
            hash_key: [3, 4],
            shards: Shards::Hash { count: 8 },
            pins: PinRules { networks: Vec::new(), dscp: vec![(46, Version::V2), (0, Version::V1), (63, Version::V2)] },
            udp_idle: Duration::from_secs(60),
            maglev_slots: 1021,
            when_empty: WhenEmpty::Drop,
            signals: SignalSetup::default(),
            pools: [
                vec![backend("10.0.0.1:80", Standing::Serving), backend("10.0.0.2:80", Standing::Draining)],
                vec![backend("10.0.0.3:80", Standing::Down)],
            ],
        }
    }

    fn numbered(setup: &ServiceSetup) -> Inventory {
        inventory::take(std::slice::from_ref(setup), &Numbered::default()).expect("room")
    }

    #[test]
    fn the_canary_port_shares_shards_and_pools_and_is_pinned() {
        let setup = setup(ForwardMode::Nat);
        let slot = &numbered(&setup).services[0];
        let own = service(&setup, slot, Place { shard_first: 16, sources: (0, 0) });
        assert_eq!((own.shard_first, own.shard_count, own.canary, own.port_pin()), (16, 8, 256, None));
        let canary = canary(&setup, &own).expect("a canary port");
        assert_eq!((canary.endpoint.port.to_host(), canary.pools, canary.port_pin()), (8080, 0, Some(Version::V2)));
        assert_eq!(canary.canary, NO_SERVICE);
        for (value, version) in [(46, Some(Version::V2)), (0, Some(Version::V1)), (63, Some(Version::V2)), (1, None)] {
            assert_eq!(own.dscp_pin(value), version, "{value}");
        }
        assert_eq!(own.flags, SERVICE_DSCP_PINS | SERVICE_SIGNALS);
    }

    #[test]
    fn backends_own_their_endpoints_only_where_replies_pass() {
        for (mode, backends) in [
            (ForwardMode::Nat, 3),
            (ForwardMode::FullNat { sources: vec![[10, 0, 0, 9].into()] }, 3),
            (ForwardMode::Dsr, 0),
            (ForwardMode::Ipip { outer_v4: None, outer_v6: None }, 0),
        ] {
            let setup = setup(mode);
            let owners = owners(std::slice::from_ref(&setup), &numbered(&setup));
            let count = |kind: fn(&Owner) -> bool| owners.iter().filter(|(_, owner)| kind(owner)).count();
            assert_eq!(count(|owner| matches!(owner, Owner::Backend(_))), backends);
            assert_eq!(count(|owner| matches!(owner, Owner::Service(_))), 2);
            assert_eq!(count(|owner| matches!(owner, Owner::Vip(_))), 3);
        }
    }

    #[test]
    fn only_serving_backends_are_in_the_tables_and_all_are_in_the_map() {
        let setup = setup(ForwardMode::Nat);
        let inventory = numbered(&setup);
        let [v1, v2] = tables(&setup, &inventory, 0);
        assert_eq!((v1.iter().collect::<HashSet<_>>().len(), v1.len(), v2.len()), (1, 1021, 0));
        let down: Vec<_> = inventory.entries().map(|(_, entry)| entry.is_down()).collect();
        assert_eq!(down, [false, false, true]);
    }

    #[test]
    fn a_network_is_a_prefix_of_service_and_address() {
        let v4 = Network { address: [10, 0, 0, 0].into(), prefix_len: 8 };
        let (len, key) = network(ServiceId(7), v4);
        assert_eq!((len, key.service, IpAddr::from(key.address)), (32 + 96 + 8, 7, v4.address));
        let v6 = Network { address: "2001:db8::".parse().expect("an address"), prefix_len: 32 };
        assert_eq!(network(ServiceId(7), v6).0, 64);
    }
}

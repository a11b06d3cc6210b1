//! One setup with all modes, both families, every kind of shards and pins; and the ways, as told and as the kernel has them.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use grayxdp::{
    config::{Key, Observe, Protocol, XdpMode},
    kernel::{
        BackendSetup, ForwardMode, Network, PinRules, ServiceSetup, Setup, Shards, SignalSetup, SourcePorts, Standing,
        WhenEmpty,
    },
    model::{Exit, Way, Ways},
};
use grayxdp_common::{
    ids::{ShardId, Version},
    layout::{IdleTicks, NextHop, Route},
    verdict::Verdict,
};

use crate::fixture::{BACKEND_MAC, BACKEND_SIDE_MAC, CLIENT_MAC, CLIENT_SIDE_MAC, ip};

pub(super) const SOURCE_PORTS: SourcePorts = SourcePorts { first: 20_000, count: 1_000 };

fn network(text: &str) -> Network {
    let (address, prefix_len) = text.split_once('/').expect("a prefix length");
    Network { address: ip(address), prefix_len: prefix_len.parse().expect("a number") }
}

fn pool(addresses: &[&str], port: u16, standings: &[Standing]) -> Vec<BackendSetup> {
    let backend = |(nth, address): (usize, &&str)| BackendSetup {
        address: SocketAddr::new(ip(address), port),
        weight: u32::try_from(nth + 1).expect("few"),
        standing: standings.get(nth).copied().unwrap_or(Standing::Serving),
    };
    addresses.iter().enumerate().map(backend).collect()
}

/// Backends of v1 and of v2 in a family; the program's own way, one by another MTU, one by the same interface, one unknown.
fn pools(is_v4: bool, port: u16) -> [Vec<BackendSetup>; 2] {
    let (v1, v2): ([&str; 4], [&str; 3]) = if is_v4 {
        (["10.77.2.10", "10.77.2.30", "10.77.2.99", "10.77.3.10"], ["10.77.2.20", "10.77.2.40", "192.0.2.1"])
    } else {
        (
            ["fd77:0:0:2::10", "fd77:0:0:2::30", "fd77:0:0:2::99", "fd77:0:0:3::10"],
            ["fd77:0:0:2::20", "fd77:0:0:2::40", "2001:db8:ffff::1"],
        )
    };
    [pool(&v1, port, &[]), pool(&v2, port, &[])]
}

struct Builder(Vec<ServiceSetup>);

impl Builder {
    fn add(&mut self, is_v4: bool, protocol: Protocol, mode: ForwardMode, change: impl FnOnce(&mut ServiceSetup)) {
        let number = u16::try_from(self.0.len()).expect("few");
        // Four services share a VIP.
        let vip =
            if is_v4 { format!("203.0.113.{}", 10 + number / 4) } else { format!("2001:db8::{:x}", 16 + number / 4) };
        let mut service = ServiceSetup {
            vip: ip(&vip),
            port: 80 + number,
            protocol,
            canary_port: None,
            mode,
            key: if number.is_multiple_of(2) { Key::Connection } else { Key::SourceIp },
            hash_key: [u64::from(number) * 77 + 1, 99],
            shards: Shards::Hash { count: 4 },
            pins: PinRules::default(),
            udp_idle: Duration::from_secs(600),
            maglev_slots: 1021,
            when_empty: WhenEmpty::OtherVersion,
            signals: SignalSetup { observe: observed(number, protocol), ..SignalSetup::default() },
            pools: pools(is_v4, 8000 + number),
        };
        change(&mut service);
        self.0.push(service);
    }
}

/// Something of each kind in every mode.
fn observed(number: u16, protocol: Protocol) -> Observe {
    let of_tcp = [Observe::Http1, Observe::Tls, Observe::Dns, Observe::None];
    match protocol {
        Protocol::Tcp => of_tcp[usize::from(number) % of_tcp.len()],
        Protocol::Udp if number.is_multiple_of(2) => Observe::Dns,
        Protocol::Udp => Observe::None,
    }
}

fn services() -> Vec<ServiceSetup> {
    let mut services = Builder(Vec::new());
    let nothing = |_: &mut ServiceSetup| ();
    for is_v4 in [true, false] {
        let text = |v4: &'static str, v6: &'static str| if is_v4 { v4 } else { v6 };
        let full_nat = ForwardMode::FullNat {
            sources: if is_v4 { vec![ip("10.77.2.1"), ip("10.77.2.2")] } else { vec![ip("fd77:0:0:2::1")] },
        };
        let ipip =
            ForwardMode::Ipip { outer_v4: Some(network("172.16.0.0/16")), outer_v6: Some(network("fd00:6774::/64")) };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            services.add(is_v4, protocol, ForwardMode::Nat, |service| {
                service.canary_port = Some(1000 + service.port);
                let wide = network(text("198.51.100.0/26", "2001:db8:100::/61"));
                let narrow = network(text("198.51.100.16/28", "2001:db8:100:2::/64"));
                service.pins.networks = vec![(wide, Version::V1), (narrow, Version::V2)];
                service.pins.dscp = vec![(46, Version::V2), (8, Version::V1)];
            });
            services.add(is_v4, protocol, full_nat.clone(), nothing);
            services.add(is_v4, protocol, ForwardMode::Dsr, nothing);
            services.add(is_v4, protocol, ipip.clone(), nothing);
            services.add(is_v4, protocol, ipip.clone(), |service| {
                service.pools = pools(!is_v4, 8900 + service.port);
            });
            services.add(is_v4, protocol, ForwardMode::Nat, |service| {
                let half = network(text("198.51.100.0/25", "2001:db8:100::/49"));
                let small = network(text("198.51.100.32/27", "2001:db8:100:4::/64"));
                service.shards = Shards::Range { count: 3, networks: vec![(half, ShardId(1)), (small, ShardId(2))] };
            });
            services.add(is_v4, protocol, ForwardMode::Nat, |service| {
                service.shards = Shards::Random;
                let [v1, v2] = &mut service.pools;
                v1.truncate(2);
                v2.truncate(1);
            });
            services.add(is_v4, protocol, ForwardMode::Nat, |service| {
                service.when_empty = WhenEmpty::Drop;
                service.pools[1].clear();
            });
            services.add(is_v4, protocol, ForwardMode::Nat, |service| {
                service.canary_port = Some(2000 + service.port);
                for (nth, backend) in service.pools[1].iter_mut().enumerate() {
                    backend.standing = if nth == 0 { Standing::Down } else { Standing::Draining };
                }
            });
        }
    }
    services.0
}

pub(super) fn setup(bpffs: PathBuf) -> Setup {
    Setup {
        interfaces: ["lo", "ga", "gb"].map(str::to_owned).to_vec(),
        xdp_mode: XdpMode::Auto,
        bpffs,
        max_flows: 4096,
        idle: IdleTicks { half_open: 600, established: 6000, closing: 600, udp: 600 },
        source_ports: SOURCE_PORTS,
        services: services(),
    }
}

/// Told ways and what the kernel would say.
pub(super) struct Told {
    pub(super) hops: Vec<(IpAddr, Option<NextHop>)>,
    pub(super) routes: Vec<Route>,
    /// With a lease on them.
    pub(super) told: Ways,
    /// Without.
    pub(super) kernel: Ways,
}

fn by(index: u32, macs: [[u8; 6]; 2], mtu: u16) -> Way {
    let macs: [u8; 12] = macs.concat().try_into().expect("twelve bytes");
    Way { exit: Exit::Interface { index, macs }, mtu }
}

fn next_hop(way: &Way) -> NextHop {
    let Exit::Interface { index, macs } = way.exit else { return NextHop::default() };
    let word = |at: usize| u16::from_ne_bytes([macs[at], macs[at + 1]]);
    NextHop {
        destination_mac: [word(0), word(2), word(4)],
        mtu: way.mtu,
        source_mac: [word(6), word(8), word(10)],
        interface: index,
        ..NextHop::default()
    }
}

fn route(network: &Network, way: &Way) -> Route {
    let v4 = network.address.is_ipv4();
    let bits = u32::from(network.prefix_len) + if v4 { 96 } else { 0 };
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    let mask = IpAddr::from(mask.to_be_bytes());
    // An all-ones start is no IPv4-mapped address, so the words are the mask's own.
    Route { network: network.address.into(), mask: mask.into(), next_hop: next_hop(way) }
}

/// As `fixture.rs` lays the network out.
pub(super) fn ways(ga: u32, gb: u32) -> Told {
    const LO: u32 = 1;
    let (to_backend, to_client) = ([BACKEND_MAC, BACKEND_SIDE_MAC], [CLIENT_MAC, CLIENT_SIDE_MAC]);
    let told_mac = [[2, 1, 2, 3, 4, 5], [2, 6, 7, 8, 9, 10]];
    let to = |text: &str, way: Way| (network(text), way);
    let kernel = |verdict, mtu| Way { exit: Exit::Kernel(verdict), mtu };
    let (unknown, local) =
        (kernel(Verdict::HandedNeighbourUnknown, 1500), kernel(Verdict::HandedNotForwarded, u16::MAX));
    let mut kernel_ways = Vec::new();
    for (text, way) in [
        ("10.77.1.0/24", unknown),
        ("10.77.2.0/24", unknown),
        ("10.77.1.7/32", by(ga, to_client, 1500)),
        ("10.77.2.10/32", by(gb, to_backend, 1500)),
        ("10.77.2.20/32", by(gb, to_backend, 1500)),
        ("198.51.100.0/24", by(ga, to_client, 1500)),
        ("10.77.3.10/32", kernel(Verdict::HandedInterfaceUnknown, 1500)),
        ("fd77:0:0:3::10/128", kernel(Verdict::HandedInterfaceUnknown, 1500)),
        ("fd77:0:0:1::/64", unknown),
        ("fd77:0:0:2::/64", unknown),
        ("fd77:0:0:1::7/128", by(ga, to_client, 1500)),
        ("fd77:0:0:2::10/128", by(gb, to_backend, 1500)),
        ("fd77:0:0:2::20/128", by(gb, to_backend, 1500)),
        ("2001:db8:100::/48", by(ga, to_client, 1500)),
    ] {
        kernel_ways.push(to(text, way));
    }
    for text in ["10.77.1.1", "10.77.2.1", "10.77.1.255", "10.77.2.255", "10.77.1.0", "10.77.2.0"] {
        kernel_ways.push(to(&format!("{text}/32"), local));
    }
    let told_hops = [
        ("10.77.2.10/32", by(gb, told_mac, 1500)),
        ("10.77.2.20/32", by(gb, to_backend, 1400)),
        ("10.77.2.30/32", by(LO, to_backend, 1500)),
        ("10.77.2.40/32", by(gb, to_backend, 1000)),
        ("fd77:0:0:2::10/128", by(gb, told_mac, 1500)),
        ("fd77:0:0:2::20/128", by(gb, to_backend, 1400)),
        ("fd77:0:0:2::30/128", by(LO, to_backend, 1500)),
        ("fd77:0:0:2::40/128", by(gb, to_backend, 1280)),
    ];
    let told_routes = [
        ("198.51.100.0/24", by(ga, told_mac, 1500)),
        ("198.51.100.192/26", by(LO, to_client, 900)),
        ("2001:db8:100::/48", by(ga, told_mac, 1500)),
        ("2001:db8:100:8000::/49", by(LO, to_client, 1280)),
    ];
    let over = |told: &[(&str, Way)]| {
        let mut ways = kernel_ways.clone();
        let told = told.iter().map(|(text, way)| to(text, *way));
        for (network, way) in told {
            ways.retain(|(other, _)| *other != network);
            ways.push((network, way));
        }
        ways
    };
    Told {
        hops: told_hops.iter().map(|(text, way)| (network(text).address, Some(next_hop(way)))).collect(),
        routes: told_routes.iter().map(|(text, way)| route(&network(text), way)).collect(),
        told: Ways { backends: over(&told_hops), clients: over(&told_routes) },
        kernel: Ways { backends: kernel_ways.clone(), clients: kernel_ways.clone() },
    }
}

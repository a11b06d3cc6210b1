//! Changes under a running program.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use grayxdp::kernel::{BackendSetup, DataPlane, Network, PinRules, Standing, WhenEmpty};
use grayxdp_common::{
    ids::Version,
    layout::{Address, FlowState, NextHop, Route},
};

use super::{A, B, C, D, percent, running, web};
use crate::fixture::{
    Segment::{Ack, Syn},
    VIP, backend, backends, client, in_namespace, service, setup, through,
};

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn pool(list: &[(&str, Standing)]) -> Vec<BackendSetup> {
    list.iter().map(|(text, standing)| BackendSetup { standing: *standing, ..backend(text) }).collect()
}

#[test]
fn backends_come_drain_leave_and_their_connections_stay() {
    use Standing::{Down, Draining, Serving};
    in_namespace("backends", |bpffs| {
        let mut plane = running(&web(bpffs, &[A], &[]));
        let old = backends(&mut plane, 80, Syn, 1000..1050);
        let mut next = 2000;
        for (pools, expected) in [
            ([pool(&[(A, Serving), (B, Serving)]), vec![]], &[A, B][..]),
            ([pool(&[(A, Draining), (B, Serving)]), vec![]], &[B]),
            ([pool(&[(A, Draining), (B, Down)]), pool(&[(C, Serving)])], &[C]),
            ([pool(&[(B, Serving)]), vec![]], &[B]),
            ([pool(&[(D, Serving)]), vec![]], &[D]),
            ([vec![], vec![]], &[]),
            ([pool(&[(A, Serving)]), vec![]], &[A]),
        ] {
            plane.set_backends(0, pools).expect("room");
            let new = backends(&mut plane, 80, Syn, next..next + 50);
            let found: BTreeSet<_> = new.values().flatten().copied().collect();
            assert_eq!(found, expected.iter().map(|text| address(text)).collect());
            assert_eq!(backends(&mut plane, 80, Ack, 1000..1050), old, "{expected:?}");
            next += 50;
        }
        plane.detach_all().expect("the pins can be removed");
    });
}

#[test]
fn a_retired_backends_number_is_given_away_when_a_sweep_finds_no_flow_of_it() {
    in_namespace("numbers", |bpffs| {
        let mut plane = running(&web(bpffs, &[A], &[]));
        let number = |plane: &DataPlane, text: &str| {
            plane.backends(0).into_iter().find(|(.., found)| *found == address(text)).map(|(id, ..)| id)
        };
        let a = number(&plane, A).expect("there");
        backends(&mut plane, 80, Syn, 1000..1005);
        plane.set_backends(0, [pool(&[(B, Standing::Serving)]), vec![]]).expect("room");
        assert_eq!(plane.sweep().of(a), 5);
        plane.set_backends(0, [pool(&[(B, Standing::Serving)]), vec![]]).expect("room");
        assert_eq!(number(&plane, A), Some(a), "its flows still name it");
        assert_eq!(plane.sever(&[a]), 5);
        plane.set_idle(grayxdp_common::layout::IdleTicks::default());
        thread::sleep(Duration::from_millis(2300));
        assert_eq!(plane.sweep().expired, 5);
        plane.set_backends(0, [pool(&[(B, Standing::Serving)]), vec![]]).expect("room");
        assert_eq!(number(&plane, A), None);
        plane.detach_all().expect("the pins can be removed");
    });
}

#[test]
fn flows_are_told_with_client_backend_state_and_canary_port() {
    in_namespace("flows", |bpffs| {
        let mut web = service(80, &[A], &[B]);
        web.canary_port = Some(8080);
        let mut plane = running(&setup(bpffs, vec![web]));
        let vip = SocketAddr::new(VIP.into(), 80);
        let (_, to) = through(&mut plane, client(1000), vip, Syn).expect("forwarded");
        assert_eq!(to, address(A));
        assert_eq!(through(&mut plane, to, client(1000), Ack), Some((vip, client(1000))));
        through(&mut plane, client(1001), SocketAddr::new(VIP.into(), 8080), Syn).expect("forwarded");
        let mut flows: Vec<_> = plane.flows().collect();
        flows.sort_by_key(|flow| flow.client);
        let told: Vec<_> = flows
            .iter()
            .map(|flow| (flow.client, flow.backend, flow.version, flow.state, flow.by_canary_port))
            .collect();
        assert_eq!(
            told,
            [
                (Some(client(1000)), address(A), Version::V1, FlowState::Established, false),
                (Some(client(1001)), address(B), Version::V2, FlowState::HalfOpen, true),
            ]
        );
        let (a, ..) = plane.backends(0)[0];
        assert_eq!(plane.sever(&[a]), 1);
        assert_eq!(plane.flows().filter(|flow| flow.severed).count(), 1);
        plane.detach_all().expect("the pins can be removed");
    });
}

#[test]
fn pins_change_under_traffic() {
    in_namespace("pins", |bpffs| {
        let mut plane = running(&web(bpffs, &[A], &[B]));
        let found = |plane: &mut DataPlane, port| {
            let vip = SocketAddr::new(VIP.into(), 80);
            through(plane, client(port), vip, Syn).map(|(_, to)| to)
        };
        assert_eq!(found(&mut plane, 1000), Some(address(A)));
        let clients = Network { address: [198, 51, 100, 0].into(), prefix_len: 24 };
        let one = Network { address: [198, 51, 100, 7].into(), prefix_len: 32 };
        let rules = PinRules { networks: vec![(clients, Version::V2)], dscp: Vec::new() };
        plane.set_pins(0, rules.clone()).expect("room");
        assert_eq!(found(&mut plane, 1001), Some(address(B)));
        let narrower = PinRules { networks: vec![(clients, Version::V2), (one, Version::V1)], dscp: Vec::new() };
        plane.set_pins(0, narrower).expect("room");
        assert_eq!(found(&mut plane, 1002), Some(address(A)));
        plane.set_pins(0, rules).expect("room");
        assert_eq!(found(&mut plane, 1003), Some(address(B)));
        let dscp = PinRules { networks: Vec::new(), dscp: vec![(0, Version::V1)] };
        plane.set_weight(0, percent(10_000)).expect("a weight");
        plane.set_pins(0, dscp).expect("room");
        assert_eq!(found(&mut plane, 1004), Some(address(A)));
        plane.set_pins(0, PinRules::default()).expect("room");
        assert_eq!(found(&mut plane, 1005), Some(address(B)));
        plane.detach_all().expect("the pins can be removed");
    });
}

#[test]
fn an_empty_version_drops_where_the_service_says_so() {
    in_namespace("empty", |bpffs| {
        let mut web = service(80, &[A], &[]);
        web.when_empty = WhenEmpty::Drop;
        let mut plane = running(&setup(bpffs, vec![web]));
        plane.set_weight(0, percent(10_000)).expect("a weight");
        assert!(backends(&mut plane, 80, Syn, 1000..1010).into_values().all(|backend| backend.is_none()));
        plane.set_weight(0, percent(0)).expect("a weight");
        assert!(backends(&mut plane, 80, Syn, 1000..1010).into_values().all(|backend| backend.is_some()));
        plane.detach_all().expect("the pins can be removed");
    });
}

#[test]
fn next_hops_and_routes_are_used_when_told() {
    in_namespace("hops", |bpffs| {
        let mut plane = running(&web(bpffs, &[A], &[]));
        let vip = SocketAddr::new(VIP.into(), 80);
        let syn = |plane: &mut DataPlane, from, to| through_macs(plane, from, to);
        assert_eq!(syn(&mut plane, client(1000), vip), Some([2, 0, 0, 0, 0, 0x0b]));
        let mac = |last: u8| [u16::from_ne_bytes([6, 0]), 0, u16::from_ne_bytes([0, last])];
        let hop = |last: u8| NextHop { destination_mac: mac(last), mtu: 1500, interface: 1, ..NextHop::default() };
        plane.set_next_hops(&[(address(A).ip(), Some(hop(1)))]);
        assert_eq!(syn(&mut plane, client(1000), vip), Some([2, 0, 0, 0, 0, 0x0b]), "they are not lent yet");
        plane.lease_hops(Duration::from_secs(60));
        assert_eq!(syn(&mut plane, client(1001), vip), Some([6, 0, 0, 0, 0, 1]));
        // A backend that joins behind the same address gets it too.
        plane.set_backends(0, [pool(&[("10.77.2.1:9090", Standing::Serving)]), vec![]]).expect("room");
        assert_eq!(syn(&mut plane, client(1002), vip), Some([6, 0, 0, 0, 0, 1]));
        plane.set_next_hops(&[(address(A).ip(), None)]);
        assert_eq!(syn(&mut plane, client(1003), vip), Some([2, 0, 0, 0, 0, 0x0b]));

        let route = |network: [u8; 4], mask: [u8; 4], last| {
            let [.., c, _] = Address::from(std::net::IpAddr::from(network)).words();
            let mask = Address::from_v6_wire([u32::MAX, u32::MAX, u32::MAX, u32::from_ne_bytes(mask)]);
            assert_ne!(c, 0);
            Route { network: std::net::IpAddr::from(network).into(), mask, next_hop: hop(last) }
        };
        let backend = SocketAddr::new([10, 77, 2, 1].into(), 9090);
        for routes in [
            vec![route([0; 4], [0; 4], 7), route([198, 51, 100, 0], [255, 255, 255, 0], 8)],
            vec![route([198, 51, 100, 0], [255, 255, 255, 0], 8), route([10, 0, 0, 0], [255, 0, 0, 0], 9)],
        ] {
            plane.set_routes(&routes).expect("few");
            assert_eq!(syn(&mut plane, backend, client(1003)), Some([6, 0, 0, 0, 0, 8]));
        }
        plane.lease_hops(Duration::ZERO);
        assert_eq!(syn(&mut plane, backend, client(1003)), Some([2, 0, 0, 0, 0, 0x0c]), "nobody keeps them fresh");
        plane.lease_hops(Duration::from_secs(60));
        plane.set_routes(&[]).expect("few");
        assert_eq!(syn(&mut plane, backend, client(1003)), Some([2, 0, 0, 0, 0, 0x0c]));
        assert!(plane.set_routes(&vec![Route::default(); 33]).is_err());
        plane.detach_all().expect("the pins can be removed");
    });
}

/// The destination MAC address that a packet leaves with.
fn through_macs(plane: &mut DataPlane, from: SocketAddr, to: SocketAddr) -> Option<[u8; 6]> {
    let segment = if from.ip() == client(0).ip() { Syn } else { Ack };
    let outcome = plane.test_run(&crate::fixture::tcp(from, to, segment)).expect("a test run");
    (outcome.action >= 3).then(|| outcome.packet[..6].try_into().expect("a frame"))
}

/// Longer than a test.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_trace_that_nobody_prolongs_ends_by_itself() {
    in_namespace("trace-end", |bpffs| {
        let mut plane = running(&web(bpffs, &[A], &[]));
        let mut events = plane.trace_events().expect("the first time");
        let mut traced = |plane: &mut DataPlane, ports| {
            backends(plane, 80, Syn, ports);
            std::iter::from_fn(|| events.next_event()).count()
        };
        plane.set_trace(1, None, LONG).expect("on");
        assert_eq!(traced(&mut plane, 1000..1010), 10);
        // As by an agent that is killed a moment later. It ends with a tick, which is a little longer than a second.
        plane.set_trace(1, None, Duration::from_secs(2)).expect("on");
        let since = Instant::now();
        while traced(&mut plane, 2000..2010) != 0 {
            assert!(since.elapsed() < Duration::from_secs(6), "it does not end");
            thread::sleep(Duration::from_millis(200));
        }
        assert!(since.elapsed() > Duration::from_millis(500), "it ended too early");
        plane.set_trace(1, None, LONG).expect("on");
        assert_eq!(traced(&mut plane, 3000..3010), 10, "and may begin again");
        plane.detach_all().expect("the pins can be removed");
    });
}

#[test]
fn traced_packets_arrive() {
    in_namespace("trace", |bpffs| {
        let mut plane = running(&web(bpffs, &[A], &[]));
        let mut events = plane.trace_events().expect("the first time");
        assert!(plane.trace_events().is_none());
        backends(&mut plane, 80, Syn, 1000..1010);
        assert!(events.next_event().is_none(), "nobody asked");
        plane.set_trace(1, Some(0), LONG).expect("a service");
        assert!(plane.set_trace(1, Some(1), LONG).is_err());
        backends(&mut plane, 80, Syn, 2000..2010);
        let mut traced = 0;
        while let Some(event) = events.next_event() {
            assert_eq!((event.service, event.backend), (0, 1));
            traced += 1;
        }
        assert_eq!(traced, 10);
        plane.set_trace(0, None, LONG).expect("off");
        backends(&mut plane, 80, Syn, 3000..3010);
        assert!(events.next_event().is_none());
        plane.detach_all().expect("the pins can be removed");
    });
}

#[test]
fn a_test_packet_comes_in_by_the_device_that_is_named() {
    in_namespace("device-in", |bpffs| {
        let mut plane = running(&web(bpffs, &[A], &[]));
        let vip = SocketAddr::new(VIP.into(), 80);
        let packet = crate::fixture::tcp(client(1), vip, Syn);
        let index = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/dev_snmp6/{name}")).expect("a device");
            let index = text.lines().find_map(|line| line.strip_prefix("ifIndex")).expect("its index");
            index.trim().parse::<u32>().expect("a number")
        };
        // Out by the device that it came in on: no redirection.
        assert_eq!(plane.test_run_on(&packet, index("gb")).expect("a test run").action, 3);
        assert_eq!(plane.test_run_on(&packet, index("ga")).expect("a test run").action, 4);
        assert!(plane.test_run_on(&packet, 9999).is_err());
        plane.detach_all().expect("the pins can be removed");
    });
}

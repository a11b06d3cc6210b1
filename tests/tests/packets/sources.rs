//! `full-nat`: source ports are given back, and run out no earlier than they must.

use std::{collections::HashSet, net::IpAddr};

use grayxdp::kernel::SourcePorts;
use grayxdp_common::verdict::Verdict;

use crate::fixture::{Bench, Frame, Kind, XDP_DROP, XDP_REDIRECT, ip, request, with_setup};

const FULL_NAT: &str = r#"
[[service]]
name = "full"
vip = "203.0.113.12"
port = 80
protocol = "tcp"
key = "connection"
mode = "full-nat"
source_addresses = ["10.77.2.1"]
hash_seed = "packets"
v1 = { backends = [{ address = "10.77.2.10:8090" }] }
v2 = { backends = [{ address = "10.77.2.20:8091" }] }
"#;

fn client(number: u32, kind: Kind) -> Frame {
    let [_, high, a, b] = number.to_be_bytes();
    let source = (IpAddr::from([198, 51, 100, b]), 1_024 + u16::from_be_bytes([high, a]));
    Frame { source, destination: (ip("203.0.113.12"), 80), payload: b"", ..request("tcp4", kind, 0) }
}

fn with_ports(name: &str, count: u16, test: impl FnOnce(&mut Bench) + Send) {
    with_setup(name, FULL_NAT, |setup| setup.source_ports = SourcePorts { first: 20_000, count }, test);
}

fn source_port(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[34], packet[35]])
}

fn dropped(bench: &Bench) -> u64 {
    let counts = bench.plane.verdict_counts().expect("readable");
    let is_it = |(verdict, _): &&(Verdict, u64)| *verdict == Verdict::DroppedNoSourcePort;
    counts.iter().find(is_it).map_or(0, |(_, count)| *count)
}

/// Opens and resets connections; each must get a port of the range.
fn open_and_reset(bench: &mut Bench, connections: u32) {
    let (mut syn, mut reset) = (client(0, Kind::Syn).bytes(), client(0, Kind::Rst).bytes());
    let mut ports = HashSet::new();
    for number in 0..connections {
        // Written in place: building packets would take longer than running them. Checksums go wrong, which is nobody's
        // concern here.
        let [high, a, b, c] = number.to_be_bytes();
        for frame in [&mut syn, &mut reset] {
            frame[28..30].copy_from_slice(&[100 + high, c]);
            frame[34..36].copy_from_slice(&[a | 0x80, b]);
        }
        let outcome = bench.plane.test_run(&syn).expect("a test run");
        assert_eq!(outcome.action, XDP_REDIRECT, "connection {number}");
        let port = source_port(&outcome.packet);
        assert!((20_000..20_256).contains(&port), "connection {number} got port {port}");
        ports.insert(port);
        let outcome = bench.plane.test_run(&reset).expect("a test run");
        assert_eq!((outcome.action, source_port(&outcome.packet)), (XDP_REDIRECT, port), "connection {number}");
    }
    assert_eq!(ports.len(), 256, "all ports are used");
    assert_eq!(dropped(bench), 0);
}

#[test]
fn a_reset_connection_gives_its_source_port_back_200_000_times() {
    with_ports("ports-short", 256, |bench| open_and_reset(bench, 200_000));
}

#[test]
#[ignore = "takes minutes"]
fn a_reset_connection_gives_its_source_port_back_10_million_times() {
    with_ports("ports-long", 256, |bench| open_and_reset(bench, 10_000_000));
}

#[test]
fn connections_beyond_the_source_ports_are_refused_and_counted_until_one_ends() {
    // As many as are tried, so that every free one is found.
    with_ports("ports-out", 64, |bench| {
        let mut ports = HashSet::new();
        for number in 0..64 {
            let (verdict, outcome) = bench.run(&client(number, Kind::Syn).bytes());
            assert_eq!(verdict, Verdict::ForwardedOtherInterface, "connection {number}");
            assert!(ports.insert(source_port(&outcome.packet)), "connection {number} got another one's port");
        }
        for number in 64..74 {
            let (verdict, outcome) = bench.run(&client(number, Kind::Syn).bytes());
            assert_eq!((verdict, outcome.action), (Verdict::DroppedNoSourcePort, XDP_DROP), "connection {number}");
        }
        assert_eq!(dropped(bench), 10);
        assert_eq!(bench.plane.flows().count(), 64, "the refused ones left no entry");
        let (_, outcome) = bench.run(&client(7, Kind::Rst).bytes());
        let freed = source_port(&outcome.packet);
        let (verdict, outcome) = bench.run(&client(80, Kind::Syn).bytes());
        assert_eq!((verdict, source_port(&outcome.packet)), (Verdict::ForwardedOtherInterface, freed));
        let (verdict, _) = bench.run(&client(81, Kind::Syn).bytes());
        assert_eq!(verdict, Verdict::DroppedNoSourcePort);
    });
}

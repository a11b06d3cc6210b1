//! The model itself, on what differential tests cannot show: time, and that it does not take over whatever it is shown.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use grayxdp_common::layout::IdleTicks;

use super::*;
use crate::{
    config::{Key as HashKey, Protocol, XdpMode},
    kernel::{BackendSetup, ForwardMode, PinRules, ServiceSetup, Shards, SignalSetup, Standing, WhenEmpty},
};

const MACS: [u8; 12] = [1; 12];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn setup(protocol: Protocol, mode: ForwardMode) -> Setup {
    let backend = |text: &str| BackendSetup {
        address: text.parse().expect("an address"),
        weight: 1,
        standing: Standing::Serving,
    };
    Setup {
        interfaces: Vec::new(),
        xdp_mode: XdpMode::Auto,
        bpffs: PathBuf::new(),
        max_flows: 1,
        idle: IdleTicks { half_open: 10, established: 100, closing: 10, udp: 5 },
        source_ports: SourcePorts { first: 20_000, count: 4 },
        services: vec![ServiceSetup {
            vip: ip("203.0.113.1"),
            port: 80,
            protocol,
            canary_port: None,
            mode,
            key: HashKey::Connection,
            hash_key: [1, 2],
            shards: Shards::Hash { count: 1 },
            pins: PinRules::default(),
            udp_idle: Duration::from_secs(6),
            maglev_slots: 1021,
            when_empty: WhenEmpty::Drop,
            signals: SignalSetup::default(),
            pools: [vec![backend("10.0.0.1:8080")], vec![backend("10.0.0.2:8080")]],
        }],
    }
}

fn model(setup: &Setup) -> Model {
    let everywhere = crate::kernel::Network { address: ip("0.0.0.0"), prefix_len: 0 };
    let way = Way { exit: Exit::Interface { index: 7, macs: MACS }, mtu: 1500 };
    let ways = Ways { backends: vec![(everywhere, way)], clients: vec![(everywhere, way)] };
    Model::new(setup, ways.clone(), ways)
}

/// An IPv4 packet with a header of 20 bytes: TCP with these flags, or UDP.
fn packet(flags: Option<u8>, [source, destination]: [(&str, u16); 2]) -> Vec<u8> {
    let mut body = [source.1.to_be_bytes(), destination.1.to_be_bytes()].concat();
    body.extend(match flags {
        Some(flags) => vec![0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0, 0, 0, 0, 0, 0],
        None => vec![0, 8, 0, 0],
    });
    let len = u8::try_from(20 + body.len()).expect("short");
    let mut frame = vec![0; 12];
    let protocol = if flags.is_some() { wire::TCP } else { wire::UDP };
    frame.extend([8, 0, 0x45, 0, 0, len, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend(change::octets(ip(source.0)));
    frame.extend(change::octets(ip(destination.0)));
    frame.extend(body);
    frame
}

const CLIENT: (&str, u16) = ("198.51.100.1", 4000);
const VIP: (&str, u16) = ("203.0.113.1", 80);

fn run(model: &mut Model, frame: &[u8], now: u32, seen: &[u8]) -> Outcome {
    model.run(Arrival { frame, interface: 1, now, seen })
}

/// The last byte of the backend's address.
fn backend(outcome: &Outcome) -> u8 {
    outcome.frame[33]
}

#[test]
fn a_flow_stays_until_it_has_been_idle_for_too_long() {
    for (protocol, flags, idle) in [(Protocol::Udp, None, 5), (Protocol::Tcp, Some(wire::SYN), 100)] {
        let mut model = model(&setup(protocol, ForwardMode::Nat));
        let sent = packet(flags, [CLIENT, VIP]);
        assert_eq!(backend(&run(&mut model, &sent, 1, &[])), 1);
        let answer = packet(flags.map(|flags| flags | wire::ACK), [("10.0.0.1", 8080), CLIENT]);
        assert_eq!(run(&mut model, &answer, 2, &[]).verdict, Verdict::ForwardedOtherInterface);
        model.set_weights(0, &[Weight::FULL]);
        assert_eq!(backend(&run(&mut model, &sent, 2 + idle, &[])), 1, "{protocol:?}");
        let verdict = backend(&run(&mut model, &sent, 2 + 2 * idle, &[]));
        assert_eq!(verdict, 1, "each packet counts");
        assert_eq!(backend(&run(&mut model, &sent, 3 + 3 * idle, &[])), 2, "{protocol:?}");
    }
}

#[test]
fn a_packet_with_a_vlan_tag_is_left_to_the_kernel_with_its_tag() {
    for tag in [[0x81, 0x00, 0, 5], [0x88, 0xa8, 0, 5]] {
        let mut model = model(&setup(Protocol::Tcp, ForwardMode::Nat));
        let mut syn = packet(Some(wire::SYN), [CLIENT, VIP]);
        syn.splice(12..12, tag);
        let outcome = run(&mut model, &syn, 1, &[]);
        assert_eq!(outcome.verdict, Verdict::HandedInterfaceUnknown);
        assert_eq!(outcome.frame[..16], syn[..16], "MAC addresses and tag");
        assert_eq!(outcome.frame[34..38], [10, 0, 0, 1], "the destination is the backend's all the same");
    }
}

#[test]
fn an_unanswered_or_closed_connection_begins_anew_with_its_next_syn() {
    for after in [None, Some(wire::RST), Some(wire::ACK)] {
        let mut model = model(&setup(Protocol::Tcp, ForwardMode::Nat));
        let syn = packet(Some(wire::SYN), [CLIENT, VIP]);
        run(&mut model, &syn, 1, &[]);
        if let Some(flags) = after {
            run(&mut model, &packet(Some(wire::SYN | wire::ACK), [("10.0.0.1", 8080), CLIENT]), 1, &[]);
            run(&mut model, &packet(Some(flags), [CLIENT, VIP]), 1, &[]);
        }
        model.set_weights(0, &[Weight::FULL]);
        let expected = if after == Some(wire::ACK) { 1 } else { 2 };
        assert_eq!(backend(&run(&mut model, &syn, 1, &[])), expected, "{after:?}");
    }
}

#[test]
fn a_source_port_is_taken_over_only_where_it_was_free_to_be_chosen() {
    let mode = ForwardMode::FullNat { sources: vec![ip("10.0.0.9")] };
    let to_backend = |source| packet(Some(wire::SYN), [source, ("10.0.0.1", 8080)]);
    for (written, is_taken) in
        [(("10.0.0.9", 20_003), true), (("10.0.0.9", 20_004), false), (("10.0.0.8", 20_001), false), (CLIENT, false)]
    {
        let mut model = model(&setup(Protocol::Tcp, mode.clone()));
        let syn = packet(Some(wire::SYN), [CLIENT, VIP]);
        let outcome = run(&mut model, &syn, 1, &to_backend(written));
        let source = wire::u16_at(&outcome.frame, 34).expect("a port");
        assert_eq!(source == written.1, is_taken, "{written:?}");
        // Nor is one that another flow has.
        let other = packet(Some(wire::SYN), [("198.51.100.2", 4000), VIP]);
        let outcome = run(&mut model, &other, 1, &to_backend(("10.0.0.9", source)));
        assert_ne!(wire::u16_at(&outcome.frame, 34), Some(source), "{written:?}");
    }
}

#[test]
fn ports_run_out_when_every_flow_holds_one_and_come_back_with_a_reset() {
    let mut model = model(&setup(Protocol::Tcp, ForwardMode::FullNat { sources: vec![ip("10.0.0.9")] }));
    let from = |port, flags| packet(Some(flags), [(CLIENT.0, port), VIP]);
    for port in 1..=4 {
        assert_eq!(run(&mut model, &from(port, wire::SYN), 1, &[]).verdict, Verdict::ForwardedOtherInterface);
    }
    assert_eq!(run(&mut model, &from(5, wire::SYN), 1, &[]).verdict, Verdict::DroppedNoSourcePort);
    run(&mut model, &from(2, wire::RST), 1, &[]);
    assert_eq!(run(&mut model, &from(6, wire::SYN), 1, &[]).verdict, Verdict::ForwardedOtherInterface);
}

#[test]
fn a_wrong_checksum_stays_wrong_and_a_right_one_right() {
    let mut model = model(&setup(Protocol::Tcp, ForwardMode::Nat));
    let mut sent = packet(Some(wire::SYN), [CLIENT, VIP]);
    let whole = |frame: &[u8]| checksum::sum(&frame[14..34]);
    let right = checksum::right(whole(&sent));
    for error in [0, 1, 0x1234] {
        sent[24..26].copy_from_slice(&right.wrapping_add(error).to_be_bytes());
        let outcome = run(&mut model, &sent, 1, &[]);
        assert_eq!(whole(&outcome.frame), u64::from(error), "{error}");
    }
}

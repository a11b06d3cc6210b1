//! The flow table under pressure: who keeps an entry, and what becomes of whom there is no place for.

use std::{collections::HashSet, net::IpAddr};

use grayxdp_common::{layout::FlowState, verdict::Verdict};

use crate::fixture::{Bench, Frame, Kind, backend, request, with_setup};

/// A client of its own; the first 2¹⁶ are told apart by address, further ones by port.
fn client(number: u32) -> Frame {
    let [_, high, a, b] = number.to_be_bytes();
    let address = IpAddr::from([198, 51, 100, b]);
    let port = 1_024 + u16::from_be_bytes([high, a]);
    Frame { source: (address, port), payload: b"", ..request("tcp4", Kind::Syn, 0) }
}

/// A handshake with v1's backend.
fn establish(bench: &mut Bench, number: u32) {
    let syn = client(number);
    bench.plane.test_run(&syn.bytes()).expect("a test run");
    bench.plane.test_run(&syn.answer(backend("tcp4", 1), Kind::SynAck).bytes()).expect("a test run");
}

fn flows_in(bench: &Bench, state: FlowState) -> usize {
    bench.plane.flows().filter(|flow| flow.state == state).count()
}

#[test]
fn a_flood_of_syns_evicts_half_open_flows_and_never_an_established_one() {
    with_setup(
        "flood",
        "",
        |_| (),
        |bench| {
            // 1,024 buckets of eight: nine established flows hardly ever meet in one.
            const ESTABLISHED: u32 = 1_000;
            for number in 0..ESTABLISHED {
                establish(bench, number);
            }
            assert_eq!(flows_in(bench, FlowState::Established), ESTABLISHED as usize);
            bench.set_weight("tcp4", 10_000);
            for number in 100_000..200_000 {
                bench.plane.test_run(&client(number).bytes()).expect("a test run");
            }
            assert_eq!(flows_in(bench, FlowState::Established), ESTABLISHED as usize, "evicted");
            assert_eq!(bench.counter("tcp4", |counters| counters.untracked_flows), 0, "half-open flows make room");
            for number in 0..ESTABLISHED {
                let segment = Frame { kind: Kind::Ack, ..client(number) };
                let outcome = bench.plane.test_run(&segment.bytes()).expect("a test run");
                assert_eq!(outcome.packet, segment.towards(backend("tcp4", 1)).bytes(), "connection {number} moved");
            }
            assert_eq!(bench.counter("tcp4", |counters| counters.flow_misses), 0);
        },
    );
}

#[test]
fn at_the_flows_that_the_table_is_made_for_hardly_one_finds_no_place_in_either_of_its_buckets() {
    const FLOWS: u32 = 16_384;
    with_setup(
        "second",
        "",
        |setup| setup.max_flows = FLOWS,
        |bench| {
            for number in 0..FLOWS {
                establish(bench, number);
            }
            let untracked = bench.counter("tcp4", |counters| counters.untracked_flows);
            // One bucket each would turn about 140 away, two about 14.
            assert!(untracked < 50, "{untracked}");
            assert_eq!(flows_in(bench, FlowState::Established) as u64, u64::from(FLOWS) - untracked);
            bench.set_weight("tcp4", 10_000);
            let mut moved = 0;
            for number in 0..FLOWS {
                let segment = Frame { kind: Kind::Ack, ..client(number) };
                let outcome = bench.plane.test_run(&segment.bytes()).expect("a test run");
                moved += u64::from(outcome.packet != segment.towards(backend("tcp4", 1)).bytes());
                let reply = segment.answer(backend("tcp4", 1), Kind::Ack);
                let outcome = bench.plane.test_run(&reply.bytes()).expect("a test run");
                moved += u64::from(outcome.packet != reply.returned(segment.destination).bytes());
            }
            assert_eq!(moved, untracked * 2, "who has an entry keeps its backend");
            let clients: HashSet<_> = bench.plane.flows().filter_map(|flow| flow.client).collect();
            let missing = (0..FLOWS).filter(|&number| !clients.contains(&client(number).source.into())).count();
            assert!(missing as u64 >= untracked && missing < 100, "{missing} clients are not told");
            assert_eq!(bench.plane.forget_flows(), u64::from(FLOWS) - untracked);
        },
    );
}

#[test]
fn a_flow_that_has_no_place_in_the_table_is_forwarded_and_counted() {
    // 128 buckets of eight, the least that there are.
    with_setup(
        "full",
        "",
        |setup| setup.max_flows = 1,
        |bench| {
            const ENTRIES: usize = 1_024;
            for number in 0..20_000 {
                establish(bench, number);
            }
            assert_eq!(flows_in(bench, FlowState::Established), ENTRIES);
            assert_eq!(bench.counter("tcp4", |counters| counters.untracked_flows), 20_000 - ENTRIES as u64);
            bench.set_weight("tcp4", 10_000);
            let late = client(30_000);
            let (verdict, outcome) = bench.run(&late.bytes());
            assert_eq!(verdict, Verdict::ForwardedOtherInterface);
            assert_eq!(outcome.packet, late.towards(backend("tcp4", 2)).bytes());
            assert_eq!(bench.counter("tcp4", |counters| counters.untracked_flows), 20_001 - ENTRIES as u64);
            // Without an entry it goes by the weight of the moment, and is counted as missed.
            let segment = Frame { kind: Kind::Ack, ..late };
            let (_, outcome) = bench.run(&segment.bytes());
            assert_eq!(outcome.packet, segment.towards(backend("tcp4", 2)).bytes());
            assert_eq!(bench.counter("tcp4", |counters| counters.flow_misses), 1);
            // An answer from where its packets go is its own; from elsewhere, it is none that the program knows.
            let answer = late.answer(backend("tcp4", 2), Kind::SynAck);
            let (verdict, outcome) = bench.run(&answer.bytes());
            assert_eq!(verdict, Verdict::ForwardedOtherInterface);
            assert_eq!(outcome.packet, answer.returned(late.destination).bytes());
            let (verdict, _) = bench.run(&late.answer(backend("tcp4", 1), Kind::SynAck).bytes());
            assert_eq!(verdict, Verdict::PassedBackendNoFlow);
        },
    );
}

#[test]
fn a_reset_connection_makes_room_at_once() {
    with_setup(
        "room",
        "",
        |setup| setup.max_flows = 1,
        |bench| {
            for number in 0..20_000 {
                establish(bench, number);
            }
            for number in 0..20_000 {
                let reset = Frame { kind: Kind::Rst, ..client(number) };
                bench.plane.test_run(&reset.bytes()).expect("a test run");
            }
            let before = bench.counter("tcp4", |counters| counters.untracked_flows);
            for number in 40_000..40_100 {
                bench.plane.test_run(&client(number).bytes()).expect("a test run");
            }
            assert_eq!(bench.counter("tcp4", |counters| counters.untracked_flows), before);
        },
    );
}

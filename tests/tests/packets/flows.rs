//! Flows: a SYN obeys today's weights, every other packet its flow.

use std::{thread, time::Duration};

use grayxdp_common::verdict::Verdict;

use crate::fixture::{Frame, Kind, backend, ip, request, with_bench};

#[test]
fn a_connection_stays_where_it_began_and_the_next_syn_obeys_the_new_weight() {
    with_bench("stays", "", |bench| {
        for service in ["tcp4", "tcp6"] {
            bench.set_weight(service, 0);
            let port = 42_000;
            bench.run(&request(service, Kind::Syn, port).bytes());
            bench.set_weight(service, 10_000);
            let segment = request(service, Kind::Ack, port);
            let (_, outcome) = bench.run(&segment.bytes());
            assert_eq!(outcome.packet, segment.towards(backend(service, 1)).bytes(), "{service}: moved in mid-flow");
            let syn = request(service, Kind::Syn, port);
            let (_, outcome) = bench.run(&syn.bytes());
            assert_eq!(outcome.packet, syn.towards(backend(service, 2)).bytes(), "{service}: a SYN obeys the weight");
            let (_, outcome) = bench.run(&segment.bytes());
            assert_eq!(outcome.packet, segment.towards(backend(service, 2)).bytes(), "{service}: the new flow");
            assert_eq!(bench.counter(service, |counters| counters.new_flows), 2);
            assert_eq!(bench.counter(service, |counters| counters.flow_misses), 0);
        }
    });
}

#[test]
fn a_segment_without_a_flow_is_counted_apart_and_begins_one() {
    with_bench("missed", "", |bench| {
        bench.set_weight("tcp4", 10_000);
        let segment = request("tcp4", Kind::Ack, 42_001);
        let (_, outcome) = bench.run(&segment.bytes());
        assert_eq!(outcome.packet, segment.towards(backend("tcp4", 2)).bytes());
        assert_eq!(bench.counter("tcp4", |counters| counters.flow_misses), 1);
        assert_eq!(bench.counter("tcp4", |counters| counters.new_flows), 0);
        bench.set_weight("tcp4", 0);
        let (_, outcome) = bench.run(&segment.bytes());
        assert_eq!(outcome.packet, segment.towards(backend("tcp4", 2)).bytes(), "it stays there from then on");
        assert_eq!(bench.counter("tcp4", |counters| counters.flow_misses), 1);
    });
}

#[test]
fn a_reset_without_a_flow_leaves_none_behind() {
    with_bench("reset", "", |bench| {
        bench.set_weight("tcp4", 10_000);
        bench.run(&request("tcp4", Kind::Rst, 42_002).bytes());
        bench.set_weight("tcp4", 0);
        let segment = request("tcp4", Kind::Ack, 42_002);
        let (_, outcome) = bench.run(&segment.bytes());
        assert_eq!(outcome.packet, segment.towards(backend("tcp4", 1)).bytes());
    });
}

#[test]
fn a_udp_conversation_stays_until_it_has_been_idle() {
    with_bench("udp-idle", "", |bench| {
        bench.set_weight("udp4", 0);
        let datagram = request("udp4", Kind::Udp, 42_003);
        bench.run(&datagram.bytes());
        bench.set_weight("udp4", 10_000);
        let (_, outcome) = bench.run(&datagram.bytes());
        assert_eq!(outcome.packet, datagram.towards(backend("udp4", 1)).bytes(), "still the same conversation");
        // The config says one second; ticks are 1.07 s, and a conversation is idle once more than one has passed whole.
        thread::sleep(Duration::from_millis(2_500));
        let (_, outcome) = bench.run(&datagram.bytes());
        assert_eq!(outcome.packet, datagram.towards(backend("udp4", 2)).bytes(), "a new conversation");
        assert_eq!(bench.counter("udp4", |counters| counters.new_flows), 2);
    });
}

#[test]
fn a_backends_own_traffic_is_not_touched() {
    with_bench("own", "", |bench| {
        let sent = request("tcp4", Kind::Syn, 42_004);
        bench.run(&sent.bytes());
        let strangers = [
            // A client that never asked.
            sent.answer(backend("tcp4", 1), Kind::SynAck).bytes_to((ip("198.51.100.8"), 42_004)),
            // The other version's backend.
            sent.answer(backend("tcp4", 2), Kind::SynAck).bytes(),
        ];
        for packet in strangers {
            let (verdict, outcome) = bench.run(&packet);
            assert_eq!(verdict, Verdict::PassedBackendNoFlow);
            assert_eq!(outcome.packet, packet);
        }
    });
}

impl Frame {
    fn bytes_to(self, destination: (std::net::IpAddr, u16)) -> Vec<u8> {
        Self { destination, ..self }.bytes()
    }
}

#[test]
fn packets_and_bytes_are_counted_both_ways_from_the_ip_header_on() {
    with_bench("counted", "", |bench| {
        for (service, kind) in [("tcp4", Kind::Syn), ("udp6", Kind::Udp)] {
            let sent = request(service, kind, 42_005);
            let answer = sent.answer(backend(service, 1), if kind == Kind::Syn { Kind::SynAck } else { Kind::Udp });
            bench.run(&sent.bytes());
            bench.run(&answer.bytes());
            bench.run(&answer.bytes());
            let ip_len = |frame: &Frame| frame.bytes().len() as u64 - 14;
            let read = |read: fn(&grayxdp_common::layout::BackendCounters) -> u64| bench.counter(service, read);
            assert_eq!((read(|c| c.packets_in), read(|c| c.bytes_in)), (1, ip_len(&sent)), "{service}");
            assert_eq!((read(|c| c.packets_out), read(|c| c.bytes_out)), (2, 2 * ip_len(&answer)), "{service}");
            assert_eq!(read(|c| c.untracked_flows), 0);
        }
    });
}

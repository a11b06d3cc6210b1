//! What the sweeps find of connections: those that nobody answers, and requests that are overdue.

use std::{thread, time::Duration};

use grayxdp::{
    config::Observe,
    decide::signals::{Counts, Signals},
    kernel::Setup,
};
use grayxdp_common::histogram::bucket_of;

use crate::{
    fixture::{
        Bench,
        Kind::{Ack, Fin, Rst, Syn, SynAck, Udp},
        with_setup,
    },
    signals::{
        OPEN,
        Packet::{self, C, S},
        peeking,
    },
};

/// A connection whose client has asked something.
const ASKED: [Packet; 4] = [C(Syn, b""), S(SynAck, b""), C(Ack, b""), C(Ack, b"ask")];

#[test]
fn who_is_not_answered_is_counted_by_the_sweep_or_when_its_place_is_taken() {
    let small = |setup: &mut Setup| setup.max_flows = 1;
    with_setup("unanswered", "", small, |bench| {
        bench.run(&C(Syn, b"").bytes("tcp4", 1));
        bench.run(&C(Udp, b"").bytes("udp6", 1));
        for packet in OPEN {
            bench.run(&packet.bytes("tcp4", 2));
        }
        bench.plane.sweep();
        assert_eq!(bench.signals("tcp4").counts.unanswered, 0, "not yet");
        thread::sleep(Duration::from_millis(4_200));
        bench.plane.sweep();
        bench.plane.sweep();
        assert_eq!(bench.signals("tcp4").counts.unanswered, 1);
        assert_eq!(bench.signals("udp6").counts.unanswered, 1);
        assert_eq!(bench.signals("udp6").groups.iter().map(|group| group.errors).sum::<u64>(), 1);
        // A late answer is no second error.
        bench.run(&S(Rst, b"").bytes("tcp4", 1));
        assert_eq!(bench.signals("tcp4").counts.transport_errors(), 1);
        // 1,024 entries: each further SYN takes somebody's place, who had not been counted.
        for port in 0..10_000 {
            bench.plane.test_run(&C(Syn, b"").bytes("tcp4", 10_000 + port)).expect("a test run");
        }
        let counts = bench.signals("tcp4").counts;
        let in_table = bench.plane.flows().filter(|flow| flow.service == Some(0)).count() as u64;
        assert_eq!(counts.unanswered, counts.flows - in_table, "{counts:?}");
    });
}

#[test]
fn a_client_that_goes_unanswered_is_an_error_once_where_an_answer_is_owed() {
    for (observe, expected) in [(Observe::Http1, [1, 1, 1, 0, 0]), (Observe::None, [0; 5])] {
        with_setup("gone", "", peeking(observe), |bench| {
            let ends: [&[Packet]; 5] = [
                &[C(Fin, b"")],
                &[C(Fin, b""), S(Fin, b"")],
                &[C(Rst, b"")],
                &[S(Ack, b"HTTP/1.1 200 OK\r\n\r\n"), C(Fin, b"")],
                // A farewell needs no answer.
                &[S(Ack, b"HTTP/1.1 200 OK\r\n\r\n"), C(Ack, b"bye"), C(Fin, b""), S(Fin, b"")],
            ];
            let before = bench.signals("tcp4");
            for (port, end) in (1..).zip(ends) {
                ASKED.iter().chain(end).for_each(|packet| drop(bench.run(&packet.bytes("tcp4", port))));
            }
            // Ticks of the table are about a second; it may still be answered in the next three.
            bench.plane.sweep();
            let at_once = bench.signals("tcp4").since(&before).counts.closed_unanswered;
            assert_eq!(at_once, expected[1] + expected[2], "{observe:?}");
            thread::sleep(Duration::from_millis(4_500));
            bench.plane.sweep();
            bench.plane.sweep();
            // What the server does now is no second error.
            for port in 1..=3 {
                bench.run(&S(Rst, b"").bytes("tcp4", port));
            }
            let grown = bench.signals("tcp4").since(&before);
            assert_eq!(grown.counts.closed_unanswered, expected.iter().sum::<u64>(), "{observe:?}");
            // Where nobody knows that an answer was owed, the reset of what only the client has closed is an error.
            let resets = u64::from(observe == Observe::None);
            assert_eq!(grown.counts.transport_errors(), grown.counts.closed_unanswered + resets, "{observe:?}");
            let errors: u64 = grown.groups.iter().map(|group| group.errors).sum();
            assert_eq!(errors, grown.counts.transport_errors(), "{observe:?}");
        });
    }
}

#[test]
fn a_request_is_found_overdue_once_and_its_answer_after_all_is_told_apart() {
    for (observe, of_datagrams) in [(Observe::None, 0), (Observe::Dns, 1)] {
        let setup = |setup: &mut Setup| {
            peeking(observe)(setup);
            setup.services.iter_mut().for_each(|service| service.udp_idle = Duration::from_secs(60));
        };
        with_setup("overdue", "", setup, |bench| {
            let before = ["tcp4", "udp4"].map(|service| bench.signals(service));
            let grown = |bench: &mut Bench| {
                let [tcp, udp] = ["tcp4", "udp4"].map(|service| bench.signals(service));
                [tcp.since(&before[0]), udp.since(&before[1])]
            };
            let found = |[tcp, udp]: [Signals; 2]| {
                let of = |Counts { overdue_waiting, overdue_gone, overdue_answered, .. }| {
                    [overdue_waiting, overdue_gone, overdue_answered]
                };
                (of(tcp.counts), of(udp.counts))
            };
            // A client that waits; one that shuts its side; one whose first request was answered; one that goes.
            let more: [&[Packet]; 4] = [&[], &[C(Fin, b"")], &[S(Ack, b"answer"), C(Ack, b"ask")], &[C(Rst, b"")]];
            for (port, more) in (1..).zip(more) {
                ASKED.iter().chain(more).for_each(|packet| drop(bench.run(&packet.bytes("tcp4", port))));
            }
            for packet in [C(Udp, b"ask"), S(Udp, b"answer"), C(Udp, b"ask")] {
                bench.run(&packet.bytes("udp4", 1));
            }
            // Met in its middle: nobody knows whether it is its first.
            bench.run(&C(Ack, b"ask").bytes("tcp4", 100));
            bench.run(&S(Ack, b"").bytes("tcp4", 100));
            bench.plane.sweep();
            assert_eq!(found(grown(bench)), ([0; 3], [0; 3]), "{observe:?}: not yet");
            thread::sleep(Duration::from_millis(3_200));
            bench.plane.sweep();
            bench.plane.sweep();
            assert_eq!(found(grown(bench)), ([2, 1, 0], [of_datagrams, 0, 0]), "{observe:?}");

            for port in [1, 2] {
                bench.run(&S(Ack, b"answer").bytes("tcp4", port));
            }
            bench.run(&S(Udp, b"answer").bytes("udp4", 1));
            for packet in [C(Ack, b"ask"), S(Ack, b"answer")] {
                bench.run(&packet.bytes("tcp4", 1));
            }
            bench.plane.sweep();
            let [tcp, udp] = grown(bench);
            let long = bucket_of(3_000_000);
            assert_eq!((tcp.first_response.count_from(long), tcp.later_response.count_from(long)), (2, 0));
            assert_eq!(found([tcp, udp]), ([2, 1, 2], [of_datagrams, 0, of_datagrams]), "{observe:?}");
        });
    }
}

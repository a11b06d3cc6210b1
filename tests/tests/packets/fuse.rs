//! The fuse: when it blows, when it must not, and what it does then.

use std::time::Duration;

use grayxdp::{
    config::Fuse,
    kernel::{FuseState, Setup},
};

use crate::fixture::{Bench, Frame, Kind, backend, request, with_setup};

const BUDGET: u32 = 20;

fn fused(setup: &mut Setup) {
    for service in &mut setup.services {
        service.signals.fuse = Some(Fuse { failures: BUDGET, window: Duration::from_secs(30) });
    }
}

/// What servers do to new connections.
#[derive(Clone, Copy, PartialEq)]
enum Server {
    Serves,
    Refuses,
    Resets,
    IsSilent,
}

impl Bench {
    /// Opens a connection; says which version it went to.
    fn connect(&mut self, client_port: u16, servers: [Server; 2]) -> u8 {
        let syn = Frame { payload: b"", ..request("tcp4", Kind::Syn, client_port) };
        let outcome = self.plane.test_run(&syn.bytes()).expect("a test run");
        let version = if outcome.packet == syn.towards(backend("tcp4", 2)).bytes() { 2 } else { 1 };
        let answer = |kind| Frame { payload: b"", ..syn.answer(backend("tcp4", version), kind) }.bytes();
        let packets = match servers[usize::from(version) - 1] {
            Server::Serves => vec![answer(Kind::SynAck)],
            Server::Refuses => vec![answer(Kind::Rst)],
            Server::Resets => vec![answer(Kind::SynAck), answer(Kind::Rst)],
            Server::IsSilent => vec![syn.bytes(), syn.bytes()],
        };
        for packet in packets {
            self.plane.test_run(&packet).expect("a test run");
        }
        version
    }

    /// Opens connections until the fuse blows; says how many went to v2 by then.
    fn connect_until_blown(&mut self, servers: [Server; 2], connections: u16) -> Option<u32> {
        let mut of_v2 = 0;
        for port in 1_024..1_024 + connections {
            if matches!(self.plane.fuse(0), FuseState::Blown(_)) {
                return Some(of_v2);
            }
            of_v2 += u32::from(self.connect(port, servers) == 2);
        }
        None
    }
}

#[test]
fn whatever_way_v2_fails_its_budget_is_all_that_it_gets() {
    for (name, server) in [("refuses", Server::Refuses), ("resets", Server::Resets), ("silent", Server::IsSilent)] {
        with_setup(&format!("fuse-{name}"), "", fused, |bench| {
            let mut alarms = bench.plane.fuse_alarms().expect("nobody took them");
            bench.set_weight("tcp4", 3_000);
            assert_eq!(bench.connect_until_blown([Server::Serves, server], 2_000), Some(BUDGET), "{name}");
            // From the very next one on.
            for port in 10_000..11_000 {
                assert_eq!(bench.connect(port, [Server::Serves, Server::Serves]), 1, "{name}");
            }
            let alarm = alarms.next_alarm().expect("an alarm");
            let FuseState::Blown(blown) = bench.plane.fuse(0) else { panic!("it has blown") };
            assert_eq!((bench.plane.alarmed(&alarm), alarm.time_ns, alarm.tally), (Some(0), blown.at_ns, blown.tally));
            assert_eq!((blown.tally.flows[1], blown.tally.failures), (BUDGET, [0, BUDGET]), "{name}");
            assert!(alarms.next_alarm().is_none(), "once");
            // The other services' fuses are whole.
            assert_eq!(bench.plane.fuse(2), FuseState::Armed);
        });
    }
}

#[test]
fn a_fault_that_v1_shares_blows_nothing() {
    for (name, server) in [("all-refuse", Server::Refuses), ("all-silent", Server::IsSilent)] {
        with_setup(name, "", fused, |bench| {
            bench.set_weight("tcp4", 5_000);
            assert_eq!(bench.connect_until_blown([server, server], 2_000), None, "{name}");
        });
    }
}

#[test]
fn without_v1_to_compare_with_most_of_v2_must_fail() {
    with_setup("alone", "", fused, |bench| {
        bench.set_weight("tcp4", 10_000);
        assert_eq!(bench.connect_until_blown([Server::Serves, Server::Refuses], 2_000), Some(BUDGET));
    });
}

#[test]
fn a_healthy_v2_and_connections_that_live_on_keep_the_fuse_whole_and_pins_go_past_a_blown_one() {
    with_setup("whole", "", fused, |bench| {
        bench.set_weight("tcp4", 5_000);
        assert_eq!(bench.connect_until_blown([Server::Serves, Server::Serves], 2_000), None);
        let open = (1_024..3_024).find(|port| bench.connect(port + 20_000, [Server::Serves, Server::Serves]) == 2);
        let open = open.expect("half go to v2") + 20_000;
        for port in 30_000..30_200 {
            bench.connect(port, [Server::Serves, Server::Refuses]);
        }
        assert!(matches!(bench.plane.fuse(0), FuseState::Blown(_)));
        let segment = request("tcp4", Kind::Ack, open);
        let (_, outcome) = bench.run(&segment.bytes());
        assert_eq!(outcome.packet, segment.towards(backend("tcp4", 2)).bytes(), "it stays where it began");
        bench
            .plane
            .set_pins(
                0,
                grayxdp::kernel::PinRules { networks: Vec::new(), dscp: vec![(0, grayxdp_common::ids::Version::V2)] },
            )
            .expect("pins can be set");
        assert_eq!(bench.connect(50_000, [Server::Serves, Server::Serves]), 2);
    });
}

#[test]
fn a_fuse_is_armed_again_with_a_budget_of_its_own() {
    with_setup("armed", "", fused, |bench| {
        bench.set_weight("tcp4", 5_000);
        assert_eq!(bench.connect_until_blown([Server::Serves, Server::Refuses], 2_000), Some(BUDGET));
        bench.plane.rearm_fuse(0).expect("a service");
        assert_eq!(bench.plane.fuse(0), FuseState::Armed);
        assert_eq!(bench.connect_until_blown([Server::Serves, Server::Refuses], 2_000), Some(BUDGET));
        assert!(bench.plane.rearm_fuse(99).is_err());
    });
}

#[test]
fn a_service_without_a_fuse_goes_on() {
    with_setup(
        "fuseless",
        "",
        |setup| setup.services[0].signals.fuse = None,
        |bench| {
            bench.set_weight("tcp4", 5_000);
            assert_eq!(bench.connect_until_blown([Server::Serves, Server::Refuses], 2_000), None);
            assert_eq!(bench.plane.fuse(0), FuseState::None);
        },
    );
}

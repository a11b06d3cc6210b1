//! Modes whose replies pass elsewhere: what is counted all the same, and what is not.

use std::{net::IpAddr, thread, time::Duration};

use grayxdp::{
    config::Fuse,
    decide::signals::{ServiceSignals, Sight},
    kernel::{ForwardMode, FuseState, Network, Setup},
};
use grayxdp_common::{
    ids::Version,
    layout::{BackendCounters, Signal},
    verdict::Verdict,
};

use crate::{
    fixture::{Bench, Frame, Kind, request, with_setup},
    signals::non_zero,
};

use Kind::{Ack, Fin, Rst, Syn, Udp};

const BUDGET: u32 = 20;

/// Packets of one client, and what they count.
type Row = (&'static str, &'static [(Kind, &'static [u8])], &'static [(&'static str, u64)]);

fn modes() -> [(&'static str, ForwardMode); 2] {
    let network =
        |address: &str, prefix_len| Network { address: address.parse::<IpAddr>().expect("an address"), prefix_len };
    let ipip =
        ForwardMode::Ipip { outer_v4: Some(network("172.16.0.0", 16)), outer_v6: Some(network("fd00:6774::", 64)) };
    [("dsr", ForwardMode::Dsr), ("ipip", ipip)]
}

fn with_mode(mode: ForwardMode) -> impl FnOnce(&mut Setup) + Send {
    move |setup| {
        for service in &mut setup.services {
            service.mode = mode.clone();
            service.signals.fuse = Some(Fuse { failures: BUDGET, window: Duration::from_secs(30) });
        }
    }
}

fn packet(service: &str, kind: Kind, payload: &'static [u8], port: u16) -> Vec<u8> {
    Frame { payload, ..request(service, kind, port) }.bytes()
}

impl Bench {
    fn service_signals(&mut self, service: &str) -> ServiceSignals {
        let index = self.config.services.iter().position(|config| config.name == service).expect("a service");
        self.plane.signals().services[index].clone()
    }
}

#[test]
fn what_clients_say_is_counted_and_nothing_is_made_up() {
    let rows: [Row; 9] = [
        ("a SYN", &[(Syn, b"")], &[("flows", 1)]),
        ("a SYN that comes again", &[(Syn, b""), (Syn, b""), (Syn, b"")], &[("flows", 1), ("syn_retransmissions", 2)]),
        ("gives up", &[(Syn, b""), (Rst, b"")], &[("flows", 1)]),
        ("answered, for the client goes on", &[(Syn, b""), (Ack, b"")], &[("flows", 1), ("established", 1)]),
        (
            "requests are no turns, for nobody sees them answered",
            &[(Syn, b""), (Ack, b""), (Ack, b"GET"), (Ack, b"GET")],
            &[("flows", 1), ("established", 1)],
        ),
        (
            "closed by the client",
            &[(Syn, b""), (Ack, b""), (Fin, b""), (Fin, b""), (Ack, b"")],
            &[("flows", 1), ("established", 1), ("closes", 1)],
        ),
        (
            "reset by the client",
            &[(Syn, b""), (Ack, b"GET"), (Rst, b""), (Rst, b"")],
            &[("flows", 1), ("established", 1), ("client_resets", 1)],
        ),
        ("met in its middle", &[(Ack, b"data"), (Ack, b"more")], &[]),
        (
            "closed, and another one from the same port",
            &[(Syn, b""), (Ack, b""), (Fin, b""), (Syn, b""), (Ack, b"")],
            &[("flows", 2), ("established", 2), ("closes", 1)],
        ),
    ];
    for (name, mode) in modes() {
        with_setup(&format!("onesided-{name}"), "", with_mode(mode), |bench| {
            for service in ["tcp4", "tcp6"] {
                for (port, (what, packets, expected)) in (20_000..).zip(&rows) {
                    let before = bench.signals(service);
                    for &(kind, payload) in *packets {
                        let (verdict, _) = bench.run(&packet(service, kind, payload, port));
                        assert_eq!(verdict, Verdict::ForwardedOtherInterface, "{name} {service}: {what}");
                    }
                    let grown = bench.signals(service).since(&before);
                    assert_eq!(non_zero(&grown.counts), *expected, "{name} {service}: {what}");
                    let ends = grown.counts.closes + grown.counts.client_resets;
                    assert_eq!(grown.duration.count(), ends, "{name} {service}: {what}");
                    assert_eq!(grown.handshake.count() + grown.first_response.count(), 0, "{name} {service}: {what}");
                    // What a client's group is counted for is what there is to judge by.
                    let [flows, errors] =
                        grown.groups.iter().fold([0, 0], |[f, e], one| [f + one.flows, e + one.errors]);
                    assert_eq!(
                        (flows, errors),
                        (grown.counts.flows, grown.counts.client_resets),
                        "{name} {service}: {what}"
                    );
                }
                let sent: usize = rows.iter().map(|(_, packets, _)| packets.len()).sum();
                let counted = |read: fn(&BackendCounters) -> u64| bench.counter(service, read);
                assert_eq!(counted(|counters| counters.packets_in), sent as u64, "{name} {service}");
                assert!(counted(|counters| counters.bytes_in) >= 40 * sent as u64, "{name} {service}");
                assert_eq!(counted(|counters| counters.packets_out + counters.bytes_out), 0, "{name} {service}");
                assert_eq!(bench.service_signals(service).sight, Sight::ClientSegments);
            }
        });
    }
}

#[test]
fn who_never_goes_on_was_not_answered_but_of_datagrams_nobody_knows() {
    for (name, mode) in modes() {
        with_setup(&format!("unseen-{name}"), "", with_mode(mode), |bench| {
            for service in ["tcp4", "tcp6"] {
                bench.run(&packet(service, Syn, b"", 1));
                bench.run(&packet(service, Syn, b"", 2));
                bench.run(&packet(service, Ack, b"", 2));
            }
            for service in ["udp4", "udp6"] {
                bench.run(&packet(service, Udp, b"q", 1));
                bench.run(&packet(service, Udp, b"q", 2));
                bench.run(&packet(service, Udp, b"q", 2));
            }
            thread::sleep(Duration::from_millis(4_200));
            bench.plane.sweep();
            bench.plane.sweep();
            for (service, expected) in [
                ("tcp4", &[("flows", 2), ("established", 1), ("unanswered", 1)][..]),
                ("tcp6", &[("flows", 2), ("established", 1), ("unanswered", 1)]),
                ("udp4", &[("flows", 2)]),
                ("udp6", &[("flows", 2)]),
            ] {
                let signals = bench.signals(service);
                assert_eq!(non_zero(&signals.counts), expected, "{name} {service}");
                let errors: u64 = signals.groups.iter().map(|group| group.errors).sum();
                assert_eq!(errors, signals.counts.unanswered, "{name} {service}: groups");
                // What is said to be known is all that is counted.
                let sight = bench.service_signals(service).sight;
                for (signal, (named, count)) in Signal::ALL.into_iter().zip(signals.counts.named()) {
                    assert_eq!(signal.name(), named);
                    assert!(count == 0 || sight.sees(signal), "{name} {service}: {named}");
                }
            }
        });
    }
}

#[test]
fn a_v2_that_is_silent_blows_the_fuse_within_its_budget_by_syns_that_come_again() {
    for (name, mode) in modes() {
        with_setup(&format!("fuse-{name}"), "", with_mode(mode), |bench| {
            bench.set_weight("tcp4", 3_000);
            let of_v2 = |bench: &Bench| {
                let readings = bench.plane.backend_readings().expect("readable");
                let own = readings.iter().filter(|one| (one.service, one.version) == (0, Version::V2));
                own.map(|one| one.counters.new_flows).sum::<u64>()
            };
            let mut connections = 0;
            for port in 1_024..5_000 {
                if matches!(bench.plane.fuse(0), FuseState::Blown(_)) {
                    break;
                }
                let before = of_v2(bench);
                bench.run(&packet("tcp4", Syn, b"", port));
                let is_v2 = of_v2(bench) > before;
                connections += u32::from(is_v2);
                for _ in 0..2 {
                    bench.run(&packet("tcp4", if is_v2 { Syn } else { Ack }, b"", port));
                }
            }
            let FuseState::Blown(blown) = bench.plane.fuse(0) else { panic!("{name}: it has blown") };
            assert_eq!((connections, blown.tally.failures), (BUDGET, [0, BUDGET]), "{name}");
            let before = of_v2(bench);
            for port in 10_000..10_200 {
                bench.run(&packet("tcp4", Syn, b"", port));
            }
            assert_eq!(of_v2(bench), before, "{name}: nobody goes there any more");
        });
    }
}
